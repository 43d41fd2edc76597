import { connect, text } from "@metamorph/client";

const { METAMORPH_TARGET = "localhost:50051", METAMORPH_TOKEN } = process.env;
const { chat } = connect(`http://${METAMORPH_TARGET}`, { token: METAMORPH_TOKEN });
const { session } = await chat.createSession({ session: { title: "Hello" } });
const events = chat.sendMessage({ sessionId: session?.sessionId, content: text("Hello from TypeScript") });
for await (const { event } of events) {
  if (event?.event.case === "textDelta") process.stdout.write(event.event.value.text);
}
process.stdout.write("\n");
