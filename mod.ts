export { VERSION } from "./lib/commands/version.ts";
