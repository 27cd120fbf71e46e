/**
 * `bun open-connections.ts ADDRESS PORT`: for each number on standard input, opens connections until
 * there are so many, each with one HTTP request answered, and prints the number.
 */

const [hostname = "", port = ""] = process.argv.slice(2);
const request = "GET / HTTP/1.1\r\nHost: benchmark\r\n\r\n";
const atOnce = 50;
let open = 0;

function openOne(): Promise<void> {
  return new Promise((resolve, reject) => {
    Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        open: (socket) => void socket.write(request),
        data: () => resolve(),
        close: () => reject(new Error("closed")),
        error: (_, error) => reject(error),
      },
    }).catch(reject);
  });
}

async function openTo(count: number): Promise<void> {
  while (open < count) {
    const batch = Math.min(atOnce, count - open);
    await Promise.all(Array.from({ length: batch }, openOne));
    open += batch;
  }
}

for await (const line of console) {
  await openTo(Number(line));
  process.stdout.write(`${line}\n`);
}

export {};
