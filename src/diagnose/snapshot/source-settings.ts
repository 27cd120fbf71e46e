/** The settings that decide whether a packet's source is accepted. Pure. */

/** As they are in force for an interface; undefined: they cannot be read. */
export interface SourceSettings {
  readonly rpFilter: number | undefined;
  readonly srcValidMark: boolean | undefined;
  readonly acceptLocal: boolean | undefined;
  readonly routeLocalnet: boolean | undefined;
}

/** IN_DEV_MAXCONF and IN_DEV_ORCONF of linux/inetdevice.h. */
export function sourceSettings(
  sysctl: (name: string) => number | undefined,
  iif: string,
): SourceSettings {
  const values = (name: string) =>
    ["all", iif].map((which) => sysctl(`net/ipv4/conf/${which}/${name}`));
  const largest = (name: string) => {
    const [all, own] = values(name);
    return all === undefined || own === undefined ? undefined : Math.max(all, own);
  };
  const any = (name: string) => {
    if (values(name).includes(1)) return true;
    return values(name).includes(undefined) ? undefined : false;
  };
  return {
    rpFilter: largest("rp_filter"),
    srcValidMark: any("src_valid_mark"),
    acceptLocal: any("accept_local"),
    routeLocalnet: any("route_localnet"),
  };
}
