import { findSimilar } from "@optique/core/suggestion";

/** The nearest of some words, no more than three; none that has little in common. */
export function similarTo(word: string, candidates: Iterable<string>): string[] {
  return findSimilar(word, candidates, {
    maxDistance: 2,
    maxDistanceRatio: 0.4,
    maxSuggestions: 3,
  });
}
