// Prints the vault that each of several calls acts on.
import { connect } from "@metamorph/client";

const { METAMORPH_TARGET, ALICE, BOB } = process.env;
const baseUrl = `http://${METAMORPH_TARGET}`;
const tokens = [ALICE, BOB];
const fresh = connect(baseUrl, { token: async () => tokens.shift() });
const alice = connect(baseUrl, { token: ALICE });
const mine = connect(baseUrl, { vault: "mine" });
const token = { headers: { authorization: `Bearer ${BOB}` } };
const yours = { headers: { "x-vault-id": "yours" } };
const printed = [];
for (const [{ vault }, options] of [
  [alice],
  [alice, token],
  [alice, yours],
  [fresh],
  [fresh],
  [fresh],
  [mine],
  [mine, yours],
  [mine, token],
]) {
  printed.push((await vault.whoAmI({}, options)).vaultId);
}
// What Go's types rule out.
for (const caller of [
  { token: Promise.resolve(ALICE) },
  { token: async () => ({ token: ALICE }) },
  { token: new Uint8Array([1]) },
  { vault: async () => "mine" },
]) {
  try {
    printed.push((await connect(baseUrl, caller).vault.whoAmI({})).vaultId);
  } catch (error) {
    printed.push(error.rawMessage.replace(", not of type function", ""));
  }
}
try {
  for await (const _ of alice.chat.streamTurn({ turnId: "turn_none" }));
} catch (error) {
  printed.push(error.rawMessage);
}
async function* upload() {
  yield { part: { case: "header", value: { mediaType: "text/plain" } } };
  yield { part: { case: "chunk", value: new TextEncoder().encode("Hello") } };
}
printed.push((await alice.chat.uploadAttachment(upload())).attachment.mediaType);
console.log(printed.join("\n"));
