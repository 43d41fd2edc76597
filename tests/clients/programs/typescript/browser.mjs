// Prints what bundlers for browsers find.
import * as browser from "metamorph-client";

try {
  new browser.MetamorphClient("localhost:50051");
} catch (error) {
  console.log(error.message);
}
console.log(String(new browser.MetamorphError("NOT_FOUND", "no session x")), Object.keys(browser).length);
