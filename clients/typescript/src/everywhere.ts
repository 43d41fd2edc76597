// What needs nothing of Node.
export { type Content, text } from "./content.js";
export { MetamorphError, type StatusCode, type Violation } from "./errors.js";
export * from "./gen/index.js";
export * from "./messages.js";
