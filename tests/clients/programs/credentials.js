// Prints the vault that each of several calls acts on.
import { connect } from "@metamorph/client";

const { METAMORPH_TARGET, ALICE, BOB } = process.env;
const baseUrl = `http://${METAMORPH_TARGET}`;
const tokens = [ALICE, BOB];
const fresh = connect(baseUrl, { token: async () => tokens.shift() });
const alice = connect(baseUrl, { token: ALICE });
const headers = { authorization: `Bearer ${BOB}` };
const vaults = [];
for (const [{ vault }, options] of [[alice], [alice, { headers }], [fresh], [fresh]]) {
  vaults.push((await vault.whoAmI({}, options)).vaultId);
}
try {
  for await (const _ of alice.chat.streamTurn({ turnId: "turn_none" }));
} catch (error) {
  vaults.push(error.rawMessage);
}
console.log(vaults.join("\n"));
