// Builds dist/: ESM, and CommonJS beside it. `npm install` of this directory, and of what is packed from it, runs it too.
import { execFileSync } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";

process.chdir(import.meta.dirname ?? new URL(".", import.meta.url).pathname);
const compiler = "node_modules/typescript/bin/tsc";
// npm links a directory without what its build needs.
if (!existsSync(compiler)) execFileSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { stdio: "inherit" });
rmSync("dist", { recursive: true, force: true });
for (const project of ["tsconfig.json", "tsconfig.cjs.json"]) {
  execFileSync(process.execPath, [compiler, "--project", project], { stdio: "inherit" });
}
writeFileSync("dist/cjs/package.json", '{ "type": "commonjs" }\n');
