import { type GivenValues, invalidValue, textValue } from "./given_values.ts";

/** What we can do; `none` is a server that asks for nothing. */
const SUPPORTED = ["none", "password", "md5", "scram-sha-256"] as const;
const UNSUPPORTED = ["gss", "sspi", "oauth"] as const;

/**
 * The authentication methods that `require_auth` allows, of those we can do; `undefined` allows every one.
 *
 * `!md5,!password` allows all the others.
 * @throws {ConninfoError} on an unknown method, a mix of both kinds, or when nothing we can do is left.
 */
export function requiredAuthMethods(values: GivenValues): readonly string[] | undefined {
  const items = textValue(values, "require_auth")?.split(",");
  if (items === undefined) return undefined;
  const fail = (problem: string, hint?: string) => invalidValue(values, "require_auth", problem, hint);
  const known: readonly string[] = [...SUPPORTED, ...UNSUPPORTED];
  const methods = items.map((item) => item.replace(/^!/, ""));
  if (!methods.every((method) => known.includes(method))) {
    throw fail(`unknown method, want ${known.join(", ")}`);
  }
  if (new Set(methods).size !== methods.length) throw fail("a method is specified more than once");
  const negated = items.filter((item) => item.startsWith("!")).length;
  if (negated !== 0 && negated !== items.length) {
    throw fail("negative methods cannot be mixed with non-negative ones");
  }
  const allowed = SUPPORTED.filter((method) => methods.includes(method) === (negated === 0));
  if (allowed.length === 0) {
    throw fail(`no method that walvault supports, want one of ${SUPPORTED.join(", ")}`);
  }
  return allowed;
}
