/**
 * An OCI image with the executable and nothing else, as an archive of its layout: what
 * `skopeo copy oci-archive:FILE …` and `podman load -i FILE` read. One image for each architecture.
 */

import { gzipSync } from "node:zlib";
import packageJson from "../../package.json" with { type: "json" };
import { sha256 } from "../inputs.ts";
import { makeTar, type PackedFile } from "./archive.ts";
import { allLicences } from "./components.ts";
import type { Executable } from "./contents.ts";

const architectures = { x64: "amd64", arm64: "arm64" } as const;
const media = "application/vnd.oci.image";

/** The archive for these executables. `time` is in seconds since 1970. */
export function makeImage(
  executables: readonly Executable[],
  version: string,
  time: number,
): Uint8Array {
  const blobs = new Map<string, Uint8Array>();
  const add = (mediaType: string, content: Uint8Array | object) => {
    const bytes = content instanceof Uint8Array ? content : Buffer.from(JSON.stringify(content));
    const hash = sha256(bytes);
    blobs.set(`blobs/sha256/${hash}`, bytes);
    return { mediaType: `${media}.${mediaType}`, digest: `sha256:${hash}`, size: bytes.length };
  };
  const annotations = {
    "org.opencontainers.image.title": "tproxy",
    "org.opencontainers.image.description": packageJson.description,
    "org.opencontainers.image.version": version,
    "org.opencontainers.image.licenses": allLicences(),
    // What names the image in a layout that is unpacked.
    "org.opencontainers.image.ref.name": version,
  };
  const manifests = executables.map(({ architecture, bytes }) => {
    const platform = { architecture: architectures[architecture], os: "linux" };
    const created = new Date(time * 1000).toISOString();
    const tar = makeTar([{ path: "tproxy", bytes, mode: 0o755 }], time);
    const layer = add("layer.v1.tar+gzip", gzipSync(tar));
    const config = add("config.v1+json", {
      ...{ created, ...platform, config: { Entrypoint: ["/tproxy"], WorkingDir: "/" } },
      rootfs: { type: "layers", diff_ids: [`sha256:${sha256(tar)}`] },
      history: [{ created, created_by: "bun run package" }],
    });
    const manifest = add("manifest.v1+json", {
      ...{ schemaVersion: 2, mediaType: `${media}.manifest.v1+json` },
      ...{ config, layers: [layer], annotations },
    });
    return { ...manifest, platform };
  });
  const index = { schemaVersion: 2, mediaType: `${media}.index.v1+json`, manifests };
  const nested = add("index.v1+json", index);
  const file = (path: string, content: object): PackedFile => ({
    ...{ path, mode: 0o644, bytes: Buffer.from(JSON.stringify(content)) },
  });
  return makeTar(
    [
      file("oci-layout", { imageLayoutVersion: "1.0.0" }),
      file("index.json", { ...index, manifests: [{ ...nested, annotations }] }),
      ...[...blobs].map(([path, bytes]) => ({ path, bytes, mode: 0o644 })),
    ],
    time,
  );
}
