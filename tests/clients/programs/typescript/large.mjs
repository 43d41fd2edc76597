// Sends documents of megabytes beside other calls of the same client, and prints how all of them ended.
import { MetamorphClient, MetamorphError, TurnStatus } from "metamorph-client";

const { METAMORPH_TARGET, METAMORPH_TOKEN } = process.env;
const retried = [];
const client = new MetamorphClient(METAMORPH_TARGET, { token: METAMORPH_TOKEN, onRetry: (error) => retried.push(error) });
const documents = (bytes) => [
  { block: { case: "document", value: { mediaType: "text/plain", source: { case: "data", value: new Uint8Array(bytes).fill(97) } } } },
  { block: { case: "text", value: { text: "What is it?" } } },
];
const sessions = await Promise.all(Array.from({ length: 4 }, () => client.createSession()));
const replies = sessions.map(async ({ sessionId }) => (await client.start(sessionId, documents(6_000_000))).final());
const others = Array.from({ length: 20 }, () => client.createSession());
console.log(...(await Promise.all(replies)).map(({ status }) => TurnStatus[status]));
console.log((await Promise.all(others)).length, retried.length);
await client.start(sessions[0].sessionId, documents(34_000_000)).catch((error) => console.log(MetamorphError.from(error).code));
console.log(retried.length);
client.close();
