/**
 * What contradicts what, in nobody's words: the command line words an issue with its options, a
 * configuration file with its own names. Pure.
 */

/** Names of settings or fields, and indices of lists. */
export type Path = readonly (string | number)[];

/** An issue of some kinds; `Args` has for each code what its text needs. */
export type IssueOf<Args> = {
  readonly [Code in keyof Args]: {
    /** What it is about. */
    readonly path: Path;
    readonly code: Code;
    readonly args: Args[Code];
  };
}[keyof Args];

/** The text of each kind. */
export type WordsOf<Args> = { readonly [Code in keyof Args]: (args: Args[Code]) => string };

/** The text of an issue. */
export function worded<Args>(words: WordsOf<Args>, issue: IssueOf<Args>): string {
  const { code, args } = issue as { code: keyof Args; args: Args[keyof Args] };
  return words[code](args);
}
