export { VERSION } from "./lib/version.ts";
