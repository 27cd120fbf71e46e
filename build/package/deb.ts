/** A .deb: an ar archive of a control and a data archive. */

import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { makeAr, makeTar, type PackedFile } from "./archive.ts";
import { fileText } from "./contents.ts";

const architectures = { x64: "amd64", arm64: "arm64" } as const;
const maintainer = "The tproxy authors <tproxy@packages.invalid>";

/** `tproxy_0.1.0_amd64.deb`, and what is in it. */
export function makeDeb(
  files: readonly PackedFile[],
  version: string,
  architecture: "x64" | "arm64",
  time: number,
): { name: string; bytes: Uint8Array } {
  const debian = architectures[architecture];
  const kilobytes = files.reduce((sum, { bytes }) => sum + Math.ceil(bytes.length / 1024), 0);
  const control = [
    "Package: tproxy",
    `Version: ${version}`,
    `Architecture: ${debian}`,
    `Maintainer: ${maintainer}`,
    `Installed-Size: ${kilobytes}`,
    "Section: net",
    "Priority: optional",
    "Description: Linux transparent-proxy tool in one file",
    " Binds to addresses that the host does not own, accepts connections to any",
    " address, forwards TCP and UDP to backends that see the client's own address,",
    " makes the policy routing and the firewall rules for that, and finds out why a",
    " packet does not arrive. The executable is static and needs no other package.",
    "",
  ].join("\n");
  const md5sums = files
    .filter(({ isConfiguration }) => !isConfiguration)
    .map(({ path, bytes }) => `${createHash("md5").update(bytes).digest("hex")}  ${path}\n`);
  const conffiles = files
    .filter(({ isConfiguration }) => isConfiguration)
    .map(({ path }) => `/${path}\n`);
  const text = (path: string, content: string, mode = 0o644): PackedFile => ({
    ...{ path, mode, bytes: Buffer.from(content) },
  });
  const controlFiles = [
    text("control", control),
    text("md5sums", md5sums.join("")),
    text("conffiles", conffiles.join("")),
    ...["postinst", "prerm", "postrm"].map((name) => text(name, fileText(name), 0o755)),
  ];
  const bytes = makeAr(
    [
      ["debian-binary", Buffer.from("2.0\n")],
      ["control.tar.gz", gzipSync(makeTar(controlFiles, time, "./"))],
      ["data.tar.gz", gzipSync(makeTar(files, time, "./"))],
    ],
    time,
  );
  return { name: `tproxy_${version}_${debian}.deb`, bytes };
}
