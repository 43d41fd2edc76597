// Prints the vault that each of several calls acts on.
import { MetamorphClient } from "metamorph-client";

const { METAMORPH_TARGET, ALICE, BOB } = process.env;
const tokens = [ALICE, BOB];
const fresh = new MetamorphClient(METAMORPH_TARGET, { token: async () => tokens.shift() });
const alice = new MetamorphClient(METAMORPH_TARGET, { token: ALICE });
const mine = new MetamorphClient(METAMORPH_TARGET, { vault: "mine" });
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
    printed.push((await new MetamorphClient(METAMORPH_TARGET, caller).vault.whoAmI({})).vaultId);
  } catch (error) {
    printed.push(error.message.replace(", not of type function", ""));
  }
}
try {
  for await (const _ of alice.chat.streamTurn({ turnId: "turn_none" }));
} catch (error) {
  printed.push(error.message);
}
async function* upload() {
  yield { part: { case: "header", value: { mediaType: "text/plain" } } };
  yield { part: { case: "chunk", value: new TextEncoder().encode("Hello") } };
}
printed.push((await alice.chat.uploadAttachment(upload())).attachment.mediaType);
console.log(printed.join("\n"));
for (const client of [fresh, alice, mine]) client.close();
