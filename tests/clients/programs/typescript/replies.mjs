// Reads replies of a server of its own in ways that the suite for every client does not reach, and prints what it finds.
import { getEventListeners, once } from "node:events";
import { createServer } from "node:http2";
import { setTimeout } from "node:timers/promises";
import { create, MetamorphClient, SendMessageResponseSchema, StreamTurnResponseSchema, toBinary } from "metamorph-client";

const LAST = 12;
let hangs = false;
const server = createServer();
server.on("stream", async (stream, { ":path": path }) => {
  stream.on("error", () => {});
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  stream.respond({ ":status": 200, "content-type": "application/grpc", "x-request-id": "call_1" }, { waitForTrailers: true });
  const [asked] = stream.readableLength ? [stream.read()] : await once(stream, "data");
  const sent = path.endsWith("/SendMessage");
  // Of StreamTurn, the sequence is the only number of one byte.
  const after = sent ? 0 : asked.at(-1) <= LAST ? asked.at(-1) : 0;
  for (let sequence = after + 1; sequence <= LAST; sequence++) {
    const value = { text: "word " };
    const body = sequence === LAST ? { case: "turnFinished", value: { status: 2 } } : { case: "textDelta", value };
    const event = { turnId: "turn_1", sequence, event: sequence === 1 ? { case: "turnStarted", value: {} } : body };
    const schema = sent ? SendMessageResponseSchema : StreamTurnResponseSchema;
    const message = toBinary(schema, create(schema, { event }));
    if (!stream.destroyed) stream.write(Buffer.from([0, 0, 0, 0, message.length, ...message]));
    await setTimeout(1);
  }
  if (!hangs) stream.end();
});
server.listen(0, "127.0.0.1");
await once(server, "listening");

let asked = 0;
let failing = [];
const retried = [];
const token = async () => {
  if (failing.includes(++asked)) throw new RangeError("the issuer is asleep");
  return "token";
};
const target = `127.0.0.1:${server.address().port}`;
const client = new MetamorphClient(target, { token, giveUpAfterMs: 400, onRetry: (error) => retried.push(error) });
const start = (options) => client.start("ses_1", "Hello", options);

async function texts(reply) {
  let count = 0;
  for await (const _ of reply.text()) count++;
  return count;
}

const programs = {
  async end() {
    hangs = true;
    const began = performance.now();
    const events = [];
    for await (const { sequence } of await start()) events.push(sequence);
    await (await start()).final();
    for await (const { sequence } of client.send("ses_1", "Hello")) events.push(sequence);
    const took = performance.now() - began;
    console.log(events.length, retried.length, took > 2_900 && took < 6_000);
  },
  async beside() {
    const reply = await start();
    const [first, count, second] = await Promise.all([reply.final(), texts(reply), reply.final()]);
    console.log(count, first === second, first.status);
    const left = await start();
    const leaving = (async () => {
      for await (const { sequence } of left) if (sequence === 3) break;
    })();
    console.log((await left.final()).status, await leaving);
    const read = await start();
    const events = read[Symbol.asyncIterator]();
    while ((await events.next()).value.event.case !== "turnFinished");
    console.log((await read.final()).status, retried.length);
  },
  async listeners() {
    const { signal } = new AbortController();
    for (let count = 0; count < 3; count++) await (await start({ signal })).final();
    for await (const _ of await start({ signal }));
    await (await client.follow("turn_1", 3, { signal })).final();
    client.chat.streamTurn({ turnId: "turn_1" }, { signal });
    failing = [asked + 1];
    await start({ signal }).catch((error) => console.log(error.message));
    console.log(getEventListeners(signal, "abort").length);
  },
  async tokens() {
    failing = [1];
    await start().catch((error) => console.log(String(error), retried.length));
    const reply = await start();
    for await (const { sequence } of reply) if (sequence === 3) break;
    // What goes on after a loop that was left resumes, too.
    failing = [asked + 1, asked + 2];
    console.log((await reply.final()).status, ...retried.map(({ code, message, cause }) => `${code} ${message} ${cause.name}`));
    const again = await start();
    for await (const _ of again) break;
    failing = Array.from({ length: 100 }, (_, number) => asked + number);
    await again.final().catch((error) => console.log(String(error), retried.length > 3));
  },
};
await programs[process.argv[2]]();
client.close();
server.close();
