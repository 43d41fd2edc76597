// Uses the client in ways that are wrong, or odd, and prints what it says.
import { once } from "node:events";
import { createServer } from "node:http2";
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";
import { MetamorphClient, MetamorphError } from "metamorph-client";

const nowhere = new MetamorphClient("127.0.0.1:1");
const aborting = new AbortController();
// Streams that nobody has asked for anything.
const streams = [nowhere.chat.sendMessage({ sessionId: "ses_1" }), nowhere.vault.watchVault({}, { signal: aborting.signal })];
aborting.abort();
await setTimeout(100);
for (const stream of streams) {
  try {
    for await (const _ of stream);
  } catch (error) {
    console.log(error.code);
  }
}
const left = nowhere.chat.sendMessage({ sessionId: "ses_1" })[Symbol.asyncIterator]();
await left.return();
console.log((await left.next()).done);
nowhere.close();

const server = createServer((_, response) => response.stream.on("data", () => {}));
server.listen(0, "127.0.0.1");
await once(server, "listening");
const client = new MetamorphClient(`127.0.0.1:${server.address().port}`);
for (const source of [["abc"], [1, 2, 3], [new Uint8Array(1), null], [[1]]]) {
  await client.upload(source, { mediaType: "text/plain" }).catch((error) => console.log(String(error)));
}
client.close();
server.close();

const other = createRequire(import.meta.url)("metamorph-client").MetamorphError;
const error = new MetamorphError("NOT_FOUND", "no session", { reason: "SESSION_NOT_FOUND" });
console.log(error instanceof other, other.from(error) === error, MetamorphError.from({ code: "NOT_FOUND" }).code);
