import { expect, test } from "bun:test";
import { formatConfiguration } from "../../../src/config/format.ts";
import { problemText } from "../../../src/config/problem.ts";

const format = (text: string) => {
  const result = formatConfiguration("x", text);
  return typeof result === "string" ? result : result.map(problemText);
};

test("one layout, with the comments where they were", () => {
  const text = `\ufeff

# All of it.
version=1   # the format
workers   =   "auto"


# Nothing but this.

[log]   # of all

level="info"
# of pools

# of this pool
# and no other
[[ pool ]]
name = "web"
to=[ "a:80",'b:80' ]
[[service]]
name = "web"
listen = [":80",
   "[::]:80"]
accept-proxy = [   # whose
  "10.0.0.0/8",   # ours
]
udp-timeout={default="5s",53 = "1s"}
"source" . 'x' = 1
[service.capture]
in=[]
# the end`;
  expect(format(text)).toBe(`# All of it.
version = 1  # the format
workers = "auto"

# Nothing but this.

[log]  # of all
level = "info"
# of pools

# of this pool
# and no other
[[pool]]
name = "web"
to = ["a:80", 'b:80']

[[service]]
name = "web"
listen = [
  ":80",
  "[::]:80",
]
accept-proxy = [   # whose
  "10.0.0.0/8",   # ours
]
udp-timeout = { default = "5s", 53 = "1s" }
"source".'x' = 1

[service.capture]
in = []
# the end
`);
});

test("text of several lines stays as it is", () => {
  const text = 'user = """\na   \n\n\n#b"""\n';
  expect(format(text)).toBe(text);
});

test("JSON, and what is neither", () => {
  expect(format('{"log":{"level":"info"},"pool":[]}')).toBe(
    '{\n  "log": {\n    "level": "info"\n  },\n  "pool": []\n}\n',
  );
  expect(format("a = ")).toEqual([
    'x:1:5: a value is missing behind "=": give one, text in quotes',
  ]);
  expect(format("")).toBe("");
  expect(format("# only this")).toBe("# only this\n");
});
