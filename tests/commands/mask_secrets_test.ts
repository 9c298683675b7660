import assert from "node:assert/strict";
import { test } from "node:test";
import { maskSecrets } from "../../lib/commands/mask_secrets.ts";

const TABLE: readonly (readonly [text: string, want: string])[] = [
  ["nothing to hide: 0/3000000", "nothing to hide: 0/3000000"],
  ["unknown option '--conection=host=x password=abc'", "unknown option '--conection=host=x password=***'"],
  ["password = abc user=u", "password = *** user=u"],
  ["password='a b' user=u", "password=*** user=u"],
  ["password='a \\' b' user=u", "password=*** user=u"],
  ["password='never closed", "password=***"],
  ["password=a\\ b user=u", "password=*** user=u"],
  ["PASSWORD=abc", "PASSWORD=***"],
  ["sslpassword=abc", "sslpassword=***"],
  ["postgres://u:abc@h/db", "postgres://u:***@h/db"],
  ["postgres://u:a@b/c@h/db", "postgres://u:***@h/db"],
  ["postgres://u@h/db?password=abc&x=1", "postgres://u@h/db?password=***&x=1"],
  ["postgres://h:5432/db", "postgres://h:5432/db"],
  ['password authentication failed for user "u"', 'password authentication failed for user "u"'],
];

for (const [text, want] of TABLE) {
  test(`maskSecrets(${JSON.stringify(text)})`, () => assert.equal(maskSecrets(text), want));
}
