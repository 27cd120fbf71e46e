import { SyscallError } from "../../ffi/errno.ts";
import { WireError } from "../../ffi/netlink/wire.ts";
import { type HostSnapshot, readHostSnapshot } from "../diagnose/snapshot/host.ts";
import { CommandError } from "../errors.ts";

/** Reads this host's state from the kernel. @throws CommandError if nothing can be read */
export function machineOrError(): HostSnapshot {
  try {
    return readHostSnapshot();
  } catch (error) {
    if (!(error instanceof SyscallError) && !(error instanceof WireError)) throw error;
    throw new CommandError(
      `Cannot read this system by netlink: ${error.message}; it needs AF_NETLINK and the ` +
        'kernel\'s tcp_diag and udp_diag ("modprobe -a tcp_diag udp_diag")',
    );
  }
}
