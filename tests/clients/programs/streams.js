// Prints the sequences of the events of several streams, and how each failed.
import { connect } from "@metamorph/client";

for (const line of process.env.STREAMS.split(" ")) {
  const [method, argument, target] = line.split("/");
  const { chat } = connect(`http://${target}`);
  const responses = {
    send: () => chat.sendMessage({ sessionId: "ses_1", requestId: argument }),
    regenerate: () => chat.regenerateReply({ userMessageId: "msg_1", requestId: argument }),
    follow: () => chat.streamTurn({ turnId: "turn_1", afterSequence: Number(argument) }),
  }[method]();
  const seen = [];
  try {
    for await (const { event } of responses) seen.push(event.sequence);
  } catch (error) {
    seen.push(error.rawMessage);
  }
  console.log(seen.join(" "));
}
process.exit();
