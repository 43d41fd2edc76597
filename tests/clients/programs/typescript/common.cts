// A strict program of CommonJS.
import metamorph = require("metamorph-client");

const { METAMORPH_TARGET, METAMORPH_TOKEN } = process.env;
const client = new metamorph.MetamorphClient(METAMORPH_TARGET, { token: METAMORPH_TOKEN });
client.vault
  .whoAmI({})
  .then(({ vaultId }) => console.log(vaultId))
  .finally(() => client.close());
