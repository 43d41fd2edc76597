// Opens a session, sends a message, prints the reply as it streams: `node example.js`, against `make run`.
import { create } from "@bufbuild/protobuf";
import { connect, SendMessageRequestSchema } from "@metamorph/client";

const { METAMORPH_TARGET = "localhost:50051", METAMORPH_TOKEN } = process.env;
const { chat } = connect(`http://${METAMORPH_TARGET}`, { token: METAMORPH_TOKEN });
const { session } = await chat.createSession({ session: { title: "From TypeScript" } });
const request = create(SendMessageRequestSchema, {
  sessionId: session?.sessionId,
  content: [{ block: { case: "text", value: { text: "Hello from TypeScript" } } }],
});
for await (const { event } of chat.sendMessage(request)) {
  if (event?.event.case === "textDelta") process.stdout.write(event.event.value.text);
}
process.stdout.write("\n");
