import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConninfoError } from "../../lib/conninfo/conninfo_error.ts";
import { KEYWORD_NAMES } from "../../lib/conninfo/keywords.ts";
import { parseConninfo } from "../../lib/conninfo/parse_conninfo.ts";

function parsed(text: string): Record<string, string> {
  return Object.fromEntries(parseConninfo(text).map(({ keyword, value }) => [keyword, value]));
}

function refusal(text: string): ConninfoError {
  try {
    parseConninfo(text);
  } catch (error) {
    assert.ok(error instanceof ConninfoError, String(error));
    return error;
  }
  throw new Error(`not refused: ${text}`);
}

const ACCEPTED: readonly (readonly [string, Record<string, string>])[] = [
  ["", {}],
  [" \t\n\v\f\r", {}],
  ["host=a", { host: "a" }],
  ["  host = a  port\n=\t1 ", { host: "a", port: "1" }],
  ["host=", { host: "" }],
  ["host= port=1", { host: "port=1" }],
  ["host=''", { host: "" }],
  ["host==/x", { host: "=/x" }],
  ["password='it\\'s \\\\ fine'", { password: "it's \\ fine" }],
  ["password=it\\'s\\ fine", { password: "it's fine" }],
  ["user=a'b'", { user: "a'b'" }],
  ["host='/x'user=b", { host: "/x", user: "b" }],
  ["host=/x\\", { host: "/x" }],
  ["host=a host=b", { host: "b" }],
  ["requiressl=1", { sslmode: "require" }],
  ["requiressl=0", { sslmode: "prefer" }],
  ["user=jürgen password=пароль", { user: "jürgen", password: "пароль" }],
  ["user=a\u00a0b", { user: "a\u00a0b" }],
  // The rest is the table of src/interfaces/libpq/t/001_uri.pl, with more edges.
  ["postgresql://", {}],
  ["postgres://", {}],
  ["postgres:///", {}],
  ["postgres:///db", { dbname: "db" }],
  ["postgresql://host", { host: "host" }],
  ["postgresql://host/", { host: "host" }],
  ["postgresql://host?", { host: "host" }],
  ["postgresql://host:12345", { host: "host", port: "12345" }],
  ["postgres://host:/", { host: "host" }],
  ["postgres://:12345/", { port: "12345" }],
  ["postgres://@host", { host: "host" }],
  ["postgres://:@host", { host: "host" }],
  ["postgresql://u@", { user: "u" }],
  ["postgresql://u:secret@host:1/db", {
    user: "u",
    password: "secret",
    host: "host",
    port: "1",
    dbname: "db",
  }],
  ["postgresql://u:p:q?r&s=t@host", { user: "u", password: "p:q?r&s=t", host: "host" }],
  ["postgresql://u%3Av:p%40s%2Fs@host", { user: "u:v", password: "p@s/s", host: "host" }],
  ["postgresql://u:%C3%A9%20+@host", { user: "u", password: "é +", host: "host" }],
  ["postgresql://%68ost/", { host: "host" }],
  ["postgresql://host/db?u%73er=x&port=12345", { host: "host", dbname: "db", user: "x", port: "12345" }],
  ["postgresql://a:1,b:2,c/db", { host: "a,b,c", port: "1,2,", dbname: "db" }],
  ["postgresql://a,b", { host: "a,b", port: "," }],
  ["postgresql://,", { host: ",", port: "," }],
  ["postgresql://[::1]:12345/db", { host: "::1", port: "12345", dbname: "db" }],
  ["postgresql://[200z:db8::1234]/", { host: "200z:db8::1234" }],
  ["postgresql://[::1]:1,[fe80::1%25eth0]", { host: "::1,fe80::1%eth0", port: "1," }],
  ["postgresql://[::1]?user=x", { host: "::1", user: "x" }],
  ["postgres://%2Fvar%2Flib%2Fpostgresql/dbname", { host: "/var/lib/postgresql", dbname: "dbname" }],
  ["postgres://u@:12345/db?host=/path/to", { user: "u", port: "12345", dbname: "db", host: "/path/to" }],
  ["postgresql:///?ssl=true", { sslmode: "require" }],
  ["postgresql://h/?user=a@b", { host: "h", user: "a@b" }],
  ["postgresql://h/?password=", { host: "h", password: "" }],
];

test("parseConninfo() accepts what libpq accepts", () => {
  for (const [text, expected] of ACCEPTED) assert.deepEqual(parsed(text), expected, text);
});

const REFUSED: readonly (readonly [string, RegExp, RegExp?])[] = [
  ["host", /missing "=" after the word at character 1$/],
  ["host=a\thunter2", /missing "=" after the word at character 8$/],
  ["=3", /invalid connection option at character 1$/],
  ["host='a", /quote at character 6 is never closed$/],
  ["host='a\\", /never closed$/],
  ["hots=a", /invalid connection option "hots" at character 1$/, /"host"/],
  ["username=a", /"username"/, /"user"/],
  ["Host=a", /"Host"/, /"host"/],
  ["ssl-mode=a", /"ssl-mode"/, /"sslmode"/],
  ["postgre://", /missing "="/],
  ["POSTGRESQL://h?user=x", /invalid connection option at character 1$/],
  ["host=a\0b", /NUL at character 7$/],
  ["postgresql://host/db?u%7aer=x", /invalid connection option "uzer" at character 22$/, /"user"/],
  ["postgresql://host?zzz", /missing "=" in the parameter at character 19$/],
  ["postgresql://host?&", /missing "="/],
  ["postgresql://host?user=a=b", /extra "=" in the parameter/],
  ["postgresql://h?ssl=false", /"ssl"/, /"sslmode"/],
  ["postgres://[::1", /"\[" at character 12 is never closed$/],
  ["postgres://[]", /no IPv6 address/],
  ["postgres://[::1]z", /unexpected character at character 17/],
  ["postgres://host?dbname=%XXfoo", /invalid percent-encoding at character 24$/],
  ["postgresql://a%00b", /forbidden %00/],
  ["postgresql://%zz", /invalid percent-encoding at character 14$/],
  ["postgresql://%1", /invalid percent-encoding/],
  ["postgresql://%", /invalid percent-encoding/],
  ["postgresql://%68%", /invalid percent-encoding at character 17$/],
  ["postgresql://%E4", /not UTF-8/],
  ["postgresql://u:p@ss@host/db", /unexpected "@" at character 20$/, /%40/],
  ["postgresql://u:12/34@host/db", /unexpected "@"/, /%2F/],
];

test("parseConninfo() refuses the rest, by position and kind", () => {
  for (const [text, message, hint] of REFUSED) {
    const error = refusal(text);
    assert.match(error.message, message, text);
    if (hint !== undefined) assert.match(error.hint ?? "", hint, text);
  }
});

const HALF_SECRETS = [
  "password=abc hunter2=xyz",
  "password=abc hunter2",
  "password='abc'hunter2=xyz'",
  "password='abc\\' hunter2",
  "password=abc host=x hunter2=4",
  "sslpassword=abc hunter2=4",
  "postgresql://u:abc@hunter2@h/db",
  "postgresql://u:abc/hunter2@h/db",
  "postgresql://u:abc/x?hunter2=4@h/db",
  "postgresql://u:abc%hunter2@h/db",
  "postgresql://h/db?password=abc&hunter2=3",
  "postgresql://h/db?password=abc&hunter2",
  "postgresql://h/db?password=abc=hunter2",
  "postgresql://[u:hunter2/@h/db",
];

test("parseConninfo() quotes no piece of a badly quoted password", () => {
  for (const text of HALF_SECRETS) {
    const error = refusal(text);
    assert.doesNotMatch(`${error.message} ${error.hint} ${error.stack}`, /hunter2|abc/, text);
  }
});

test("parseConninfo() round trips values in quotes", () => {
  const value = fc.string({ unit: "binary" }).filter((text) => !text.includes("\0"));
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom(...KEYWORD_NAMES), value, { maxKeys: 4 }), (settings) => {
      const text = Object.entries(settings).map(([keyword, value]) =>
        `${keyword}='${value.replaceAll(/['\\]/g, "\\$&")}'`
      );
      assert.deepEqual(parsed(text.join(" ")), { ...settings });
    }),
  );
});

test("parseConninfo() round trips URIs that are percent-encoded", () => {
  const part = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => !/[\0,]/.test(text));
  fc.assert(
    fc.property(part, part, part, part, (user, password, host, dbname) => {
      const [u, p, h, d] = [user, password, host, dbname].map(encodeURIComponent);
      assert.deepEqual(parsed(`postgresql://${u}:${p}@${h}/${d}?options=${u}`), {
        user,
        password,
        host,
        dbname,
        options: user,
      });
    }),
    { numRuns: 40 },
  );
});

const NOISE = fc.array(
  fc.constantFrom(
    ..."= ' \\ % @ : / ? & , [ ] a 0".split(" "),
    " ",
    "\0",
    "é",
    "%41",
    "%E4",
    "host",
    "password=",
    "postgresql://",
    "ssl=true",
  ),
  { maxLength: 16 },
).map((pieces) => pieces.join(""));

test("parseConninfo() throws nothing but ConninfoError", () => {
  const prefix = fc.constantFrom("", "postgresql://", "postgres://u:p@", "host=a ");
  fc.assert(
    fc.property(prefix, fc.oneof(NOISE, fc.string({ unit: "binary" })), (start, rest) => {
      try {
        parseConninfo(start + rest);
      } catch (error) {
        assert.ok(error instanceof ConninfoError, String(error));
      }
    }),
    { numRuns: 1000 },
  );
});

test("no secret is ever in a message", () => {
  const mark = "hunter2";
  const secret = fc.tuple(NOISE, NOISE).map(([before, after]) => `${before}${mark}${after}`)
    // The last word of a secret with spaces may be a whole valid setting: nobody could tell.
    .filter((text) => !/[a-z_]\s*=/.test(text));
  const template = fc.constantFrom(
    (text: string) => `password=${text} host=h`,
    (text: string) => `user=u sslpassword='${text}' host=h`,
    (text: string) => `postgresql://u:${text}@h:1/db`,
    (text: string) => `postgresql://h:1/db?password=${text}&user=u`,
  );
  fc.assert(
    fc.property(secret, template, (text, write) => {
      const conninfo = write(text);
      try {
        parseConninfo(conninfo);
      } catch (error) {
        assert.ok(error instanceof ConninfoError);
        assert.ok(!`${error.message} ${error.hint}`.includes(mark), `${error.message} ${error.hint}`);
      }
    }),
    { numRuns: 2000 },
  );
});
