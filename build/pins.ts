/**
 * What the static link is made of besides this repository, by hash: the same inputs, the same
 * bytes.
 */

import type { ArchitectureName } from "./architecture.ts";

export interface DebianPin {
  /** Below an archive's root. */
  readonly package: string;
  readonly packageSha256: string;
  /** Below the package's root. */
  readonly file: string;
  readonly fileSha256: string;
}

export interface Pins {
  /** `bun-linux-…-musl` of each Bun that has been looked at, by its version. */
  readonly bun: Readonly<Record<string, string>>;
  readonly libc: DebianPin;
  readonly library: DebianPin;
}

const libstdcxx = "pool/main/g/gcc-12/libstdc++6_12.2.0-14+deb12u1";

export const pins: Readonly<Record<ArchitectureName, Pins>> = {
  x64: {
    bun: { "1.4.5": "cf5d285ddbe256785a5121a3c113191a6b577504976374c7cfd5aedca609b720" },
    libc: {
      package: "pool/main/m/musl/musl_1.2.3-1_amd64.deb",
      packageSha256: "4fc1e3d9b579f5c682ca99a4d45aec08d72a2e6b82b4c2e1bbcb7095466ae96d",
      file: "lib/x86_64-linux-musl/libc.so",
      fileSha256: "99261882506dab043f8b30d6f0b1fa4a4c697d92139b5483cf1981074a967682",
    },
    library: {
      package: `${libstdcxx}_amd64.deb`,
      packageSha256: "5cd3171216d4ab0fc911cfe9c35509bf2dd8f47761c43b7f6a4296701551a24d",
      file: "usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30",
      fileSha256: "e7848e32af4932840ba775169041759a2a8dd5a008af360e5c55bce506eebcf4",
    },
  },
  arm64: {
    bun: { "1.4.5": "9c48986093073afec8b76a3e285303598dd2462f52748aecb65e4d94866e1ea3" },
    libc: {
      package: "pool/main/m/musl/musl_1.2.3-1_arm64.deb",
      packageSha256: "6ccf2bf0f479b00411cb8e1eeb048e648718170db5d63bbb4bf4a89350b81468",
      file: "lib/aarch64-linux-musl/libc.so",
      fileSha256: "4fe353b2b485ffc2905b400ca8ab364b88d402ca11adec3553cb5f8928bb01b9",
    },
    library: {
      package: `${libstdcxx}_arm64.deb`,
      packageSha256: "26e138c677a985775331373828a6c286c551ff397cb735d00e2383cb273d1cb2",
      file: "usr/lib/aarch64-linux-gnu/libstdc++.so.6.0.30",
      fileSha256: "532f3a12d7b8fef6cc7a064ea106b6c4ab2365674b73e743e4a385d4ffb6c8ab",
    },
  },
};
