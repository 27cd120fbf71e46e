/**
 * `bun open-connections.ts ADDRESS PORT`: for each number on standard input, opens connections
 * until there are so many, each with one HTTP request answered, and prints the number.
 */

const [hostname = "", port = ""] = process.argv.slice(2);
const request = "GET / HTTP/1.1\r\nHost: benchmark\r\n\r\n";
const atOnce = 50;
const refusalsMax = 2_000;
let open = 0;
let refusals = 0;

/** Whether it was answered: a proxy that uses the client's port may find it in TIME_WAIT. */
function openOne(): Promise<boolean> {
  return new Promise((resolve) => {
    const refused = () => resolve(false);
    Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        open: (socket) => void socket.write(request),
        data: () => resolve(true),
        close: refused,
        error: refused,
      },
    }).catch(refused);
  });
}

async function openTo(count: number): Promise<void> {
  while (open < count) {
    const batch = Math.min(atOnce, count - open);
    const answered = await Promise.all(Array.from({ length: batch }, openOne));
    open += answered.filter(Boolean).length;
    refusals += answered.filter((each) => !each).length;
    if (refusals > refusalsMax) process.exit(1);
  }
}

for await (const line of console) {
  await openTo(Number(line));
  process.stdout.write(`${line}\n`);
}

export {};
