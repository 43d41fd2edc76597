import { MetamorphClient } from "metamorph-client";

const { METAMORPH_TARGET = "localhost:50051", METAMORPH_TOKEN } = process.env;
const client = new MetamorphClient(METAMORPH_TARGET, { token: METAMORPH_TOKEN });
const session = await client.createSession({ title: "Hello" });
const reply = await client.start(session.sessionId, "Hello from TypeScript");
for await (const text of reply.text()) process.stdout.write(text);
process.stdout.write("\n");
client.close();
