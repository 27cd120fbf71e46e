/**
 * Makes one static executable of Bun's musl build, musl and libstdc++: bytes in, bytes out.
 *
 * The kernel maps all of it by one table of PT_LOADs, without an interpreter: the executable where
 * it was, behind it ld-musl as it is, libstdc++ with its relocations applied, and the stub page, at
 * which the process begins. ld-musl then finds the executable by the auxiliary vector as if it had
 * been started as its interpreter, and finds nothing that it would have to open.
 */

import { type Architecture, architectureOf } from "./architecture.ts";
import { withEdits } from "./edits.ts";
import {
  type Elf,
  ET_EXEC,
  endOf,
  LinkError,
  loadsOf,
  onlySegment,
  PF_R,
  PF_X,
  PT_GNU_STACK,
  PT_LOAD,
  PT_NOTE,
  PT_PHDR,
  PT_TLS,
  readElf,
  roundUp,
  type Segment,
} from "./elf.ts";
import { headerEdits, replaceHeader, withoutNeeded } from "./headers.ts";
import { libcSegments, librarySegments, placeImages } from "./layout.ts";
import { bindLibrary, relocateLibrary, type Scope } from "./relocate.ts";
import { stubBytes, stubPage, substitutesAt } from "./stub.ts";
import { STUB } from "./stub-code.ts";
import { mergeTls } from "./tls.ts";

export interface Inputs {
  /** What `bun build --compile` made for musl. */
  readonly app: Uint8Array;
  /** musl's libc.so, which is its loader as well. */
  readonly libc: Uint8Array;
  readonly library: Uint8Array;
}

/** Refuses what the link has not been made for. */
function requireKnown(app: Elf, libc: Elf, library: Elf): Architecture {
  const architecture = architectureOf(app);
  for (const other of [libc, library]) {
    if (other.machine !== app.machine) {
      throw new LinkError(`${other.name} is for another architecture than ${app.name}`);
    }
  }
  if (app.type !== ET_EXEC) {
    throw new LinkError(`${app.name} is position-independent; the link needs fixed addresses`);
  }
  if (loadsOf(app).some(({ fileBytes, memoryBytes }) => fileBytes !== memoryBytes)) {
    throw new LinkError(`${app.name} has a .bss outside the file, which the link does not expect`);
  }
  return architecture;
}

/** Links. Throws a `LinkError` that says why when the inputs are not what the link knows. */
export function linkStatic(inputs: Inputs): Uint8Array {
  const app = readElf("Bun's musl build", inputs.app);
  const libc = readElf("musl", inputs.libc);
  const library = readElf("libstdc++", inputs.library);
  const architecture = requireKnown(app, libc, library);
  const base = placeImages(app, libc, library);

  const libcOffset = roundUp(app.bytes.length, architecture.pageBytes);
  const mappedLibc = libcSegments(architecture, libc, base.libc, libcOffset);
  const libraryOffset = roundUp(libcOffset + mappedLibc.bytes.length, architecture.pageBytes);
  const stubOffset = roundUp(libraryOffset + endOf(library), architecture.pageBytes);

  const tlsAt = { offset: stubOffset + STUB.tlsImage, address: base.stub + STUB.tlsImage };
  const tls = mergeTls(architecture, app, library, tlsAt);
  const scope: Scope = {
    ...{ architecture, app, library, libc, tls },
    ...{ libraryBase: base.library, libcBase: base.libc, substitutes: substitutesAt(base.stub) },
  };
  const image = relocateLibrary(scope);
  const stubSize = stubBytes(tls.image?.length ?? 0);
  const segments: Segment[] = [
    ...loadsOf(app),
    ...mappedLibc.segments,
    ...librarySegments(architecture, library, base.library, libraryOffset),
    {
      ...{ type: PT_LOAD, flags: PF_R | PF_X, offset: stubOffset, address: base.stub },
      ...{ fileBytes: stubSize, memoryBytes: stubSize, align: architecture.pageBytes },
    },
    ...app.segments.filter(({ type }) => type === PT_GNU_STACK || type === PT_NOTE),
  ];
  const stub = stubPage(architecture, {
    loaderBase: base.libc,
    loaderEntry: base.libc + libc.entry,
    appHeaders: onlySegment(app, PT_PHDR).address,
    appHeaderCount: app.segments.length,
    appEntry: app.entry,
    segments,
    tlsImage: tls.image,
  });
  return withEdits(
    app.bytes,
    [
      ...bindLibrary(scope, image),
      withoutNeeded(app, /^libstdc\+\+\./),
      replaceHeader(app, onlySegment(app, PT_TLS), tls.segment),
      ...headerEdits(base.stub + STUB.entry, stubOffset + STUB.programHeaders, segments.length),
      { offset: libcOffset, bytes: mappedLibc.bytes },
      { offset: libraryOffset, bytes: image },
      { offset: stubOffset, bytes: stub },
    ],
    stubOffset + stub.length,
  );
}
