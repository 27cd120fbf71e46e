/** What is inside the executable, with licences: the SBOM and the copyright file are made of it. */

import { version as bunVersion } from "bun";
import packageJson from "../../package.json" with { type: "json" };

export interface Component {
  readonly name: string;
  readonly version?: string;
  /** An SPDX expression. */
  readonly licence: string;
  readonly copyright: string;
  /** The remark about it in the copyright file. */
  readonly comment?: string;
}

/** The libraries that are linked into the static executable besides Bun. */
const linked: readonly Component[] = [
  {
    name: "musl",
    version: "1.2.3",
    licence: "MIT",
    copyright: "2005-2020 Rich Felker, et al.",
    comment: "The libc.so of Debian's package musl 1.2.3-1, unchanged.",
  },
  {
    name: "libstdc++",
    version: "12.2.0",
    licence: "GPL-3.0-or-later WITH GCC-exception-3.1",
    copyright: "1998-2022 Free Software Foundation, Inc.",
    comment:
      "From Debian's package libstdc++6 12.2.0-14+deb12u1, relocated. Under the GCC Runtime " +
      "Library Exception, version 3.1, it may be conveyed as part of a program under any terms.",
  },
];

/** npm packages that are bundled; their versions are those of package.json. */
const bundled: readonly Component[] = Object.entries(packageJson.dependencies).map(
  ([name, version]) => ({ name, version, licence: "MIT", copyright: `the authors of ${name}` }),
);

/** npm packages that those need; their versions are those of bun.lock. */
const indirect: readonly Component[] = (
  [
    ["@leichtgewicht/ip-codec", "2.0.5", "MIT"],
    ["eslint-visitor-keys", "5.0.1", "Apache-2.0"],
  ] as const
).map(([name, version, licence]) => ({
  ...{ name, version, licence },
  copyright: `the authors of ${name}`,
}));

const bun: Component = {
  name: "Bun",
  version: bunVersion,
  licence: "MIT",
  copyright: "Jarred Sumner and the authors of Bun",
  comment: "Bun's musl build. What it has statically linked in turn is listed behind it.",
};

/** What Bun links statically, by its own list. */
const partsOfBun: readonly Component[] = (
  [
    ["JavaScriptCore and WebCore (WebKit)", "LGPL-2.0-or-later", "Apple Inc. and others"],
    ["tinycc", "LGPL-2.1-or-later", "Fabrice Bellard and others"],
    ["BoringSSL", "Apache-2.0", "the authors of OpenSSL and BoringSSL"],
    ["Brotli", "MIT", "the Brotli authors"],
    ["c-ares", "MIT", "the c-ares authors"],
    ["highway", "Apache-2.0", "Google LLC"],
    ["ICU", "Unicode-3.0", "Unicode, Inc."],
    ["libarchive", "BSD-2-Clause", "Tim Kientzle and others"],
    ["libbase64", "BSD-2-Clause", "Alfred Klomp and others"],
    ["libdeflate", "MIT", "Eric Biggers and others"],
    ["libjpeg-turbo", "BSD-3-Clause AND IJG AND Zlib", "the libjpeg-turbo project"],
    ["libspng", "BSD-2-Clause", "Randy"],
    ["libwebp", "BSD-3-Clause", "Google LLC"],
    ["lol-html", "BSD-3-Clause", "Cloudflare, Inc."],
    ["ls-hpack", "MIT", "LiteSpeed Technologies Inc."],
    ["ls-qpack", "MIT", "LiteSpeed Technologies Inc."],
    ["lsquic", "MIT AND BSD-3-Clause", "LiteSpeed Technologies Inc. and the Chromium authors"],
    ["mimalloc", "MIT", "Microsoft Corporation, Daan Leijen"],
    ["picohttpparser", "MIT", "Kazuho Oku and others"],
    ["simdutf", "Apache-2.0", "the simdutf authors"],
    ["TigerBeetle's I/O code", "Apache-2.0", "TigerBeetle, Inc."],
    [
      "__cxa_thread_atexit of LLVM's libc++abi",
      "Apache-2.0 WITH LLVM-exception",
      "the LLVM project",
    ],
    ["uSockets and uWebSockets", "Apache-2.0", "Alex Hultman"],
    ["uucode", "MIT", "Jacob Sandlund"],
    ["zlib-ng", "Zlib", "the zlib-ng authors"],
    ["zstd", "BSD-3-Clause", "Meta Platforms, Inc."],
  ] as const
).map(([name, licence, copyright]) => ({ name, licence, copyright }));

const components: readonly Component[] = [bun, ...linked, ...bundled, ...indirect, ...partsOfBun];

/** A CycloneDX 1.5 document: tproxy and everything inside. `sha256` is the executable's. */
export function makeSbom(sha256: string, architecture: string): string {
  const own = `tproxy@${packageJson.version}`;
  const component = ({ name, version, licence }: Component) => ({
    type: "library",
    "bom-ref": version === undefined ? name : `${name}@${version}`,
    name,
    ...(version === undefined ? {} : { version }),
    ...([...bundled, ...indirect].some((each) => each.name === name)
      ? { purl: `pkg:npm/${name.replace("@", "%40")}@${version}` }
      : {}),
    licenses: [{ expression: licence }],
  });
  const all = components.map(component);
  const document = {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      component: {
        type: "application",
        "bom-ref": own,
        name: "tproxy",
        version: packageJson.version,
        description: `${packageJson.description} (linux, ${architecture})`,
        hashes: [{ alg: "SHA-256", content: sha256 }],
        licenses: [{ expression: packageJson.license }],
      },
    },
    components: all,
    dependencies: [{ ref: own, dependsOn: all.map((each) => each["bom-ref"]) }],
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** One SPDX expression for everything inside. */
export function allLicences(): string {
  const parts = [packageJson.license, ...components.map(({ licence }) => licence)];
  return [...new Set(parts.flatMap((licence) => licence.split(" AND ")))].join(" AND ");
}

/** Debian's machine-readable copyright file. `licence` is the text of LICENSE. */
export function makeCopyright(licence: string): string {
  const indented = licence
    .trimEnd()
    .split("\n")
    .map((line) => (line === "" ? " ." : ` ${line}`));
  const stanza = ({ name, version, licence, copyright, comment }: Component) =>
    [
      `Files: usr/bin/tproxy (${[name, version].filter(Boolean).join(" ")})`,
      `Copyright: ${copyright}`,
      `License: ${licence}`,
      ...(comment === undefined ? [] : [`Comment: ${comment}`]),
    ].join("\n");
  return `${[
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n" +
      "Comment: The executable is one file with all that it needs. What is under the LGPL\n" +
      " is part of Bun. To change it, build Bun anew from its sources, and tproxy with it.",
    `Files: *\nCopyright: 2026 The tproxy authors\nLicense: MIT`,
    ...components.map(stanza),
    ["License: MIT", ...indented].join("\n"),
  ].join("\n\n")}\n`;
}
