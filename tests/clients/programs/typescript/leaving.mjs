// Leaves streams of a server that would go on for ever, and prints how each ended there.
import { once } from "node:events";
import { createServer } from "node:http2";
import { create, MetamorphClient, SendMessageResponseSchema, toBinary } from "metamorph-client";

const event = { turnId: "turn_1", sequence: 1, event: { case: "turnStarted", value: {} } };
const message = toBinary(SendMessageResponseSchema, create(SendMessageResponseSchema, { event }));
const server = createServer();
server.on("stream", (stream, { ":path": path }) => {
  stream.on("error", () => {});
  stream.on("close", () => server.emit("left", stream.rstCode));
  stream.respond({ ":status": 200, "content-type": "application/grpc" });
  const sent = path.endsWith("/SendMessage") ? message : [];
  stream.write(Buffer.from([0, 0, 0, 0, sent.length, ...sent]));
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const client = new MetamorphClient(`127.0.0.1:${server.address().port}`);

async function left(events) {
  const ended = once(server, "left");
  for await (const _ of events) break;
  console.log(...(await ended));
}

await left(client.vault.watchVault({}));
await left(client.send("ses_1", "Hello"));
await left(await client.start("ses_1", "Hello"));
// Without a loop at all, and while the next event is awaited.
const reply = await client.start("ses_1", "Hello");
const events = reply[Symbol.asyncIterator]();
await events.next();
const next = events.next();
const ended = once(server, "left");
await events.return();
console.log((await next).done, ...(await ended));
client.close();
server.close();
