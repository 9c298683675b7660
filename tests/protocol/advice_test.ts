import assert from "node:assert/strict";
import { test } from "node:test";
import { adviceFor } from "../../lib/protocol/advice.ts";
import { ServerError } from "../../lib/protocol/errors.ts";

/** What servers of PostgreSQL 10 to 18 say, and the word that the advice must have; none where none is known. */
const TABLE: readonly (readonly [sqlState: string, message: string, advice?: RegExp])[] = [
  ["28P01", 'password authentication failed for user "u"', /PGPASSWORD/],
  [
    "28000",
    'no pg_hba.conf entry for replication connection from host "::1", user "u", no encryption',
    /pg_hba\.conf: host replication/,
  ],
  [
    "28000",
    'pg_hba.conf rejects replication connection for host "::1", user "u", SSL encryption',
    /pg_hba\.conf: host replication/,
  ],
  ["28000", 'role "u" does not exist', /CREATE ROLE/],
  ["28000", 'role "u" is not permitted to log in', /ALTER ROLE name LOGIN/],
  ["28000", 'Peer authentication failed for user "u"', /pg_ident\.conf/],
  ["28000", 'Ident authentication failed for user "u"', /pg_ident\.conf/],
  ["28000", 'certificate authentication failed for user "u"', /pg_ident\.conf/],
  ["28000", 'GSSAPI authentication failed for user "u"'],
  ["28000", "no PostgreSQL user name specified in startup packet"],
  ["42501", "must be superuser or replication role to start walsender", /ALTER ROLE name REPLICATION/],
  ["42501", "permission denied to start WAL sender", /ALTER ROLE name REPLICATION/],
  [
    "53300",
    "number of requested standby connections exceeds max_wal_senders (currently 0)",
    /max_wal_senders/,
  ],
  ["53300", "sorry, too many clients already"],
  ["55006", 'replication slot "wv" is active for PID 7', /other receiver/],
  ["55000", 'can no longer access replication slot "wv"', /lost its WAL.*--drop-slot/],
  ["55000", 'can no longer get changes from replication slot "wv"', /lost its WAL.*--drop-slot/],
  ["55000", "cannot use a logical replication slot for physical replication", /another slot name/],
  ["55000", "replication slots can only be used if max_replication_slots > 0"],
  ["55000", "replication slots can only be used if wal_level >= replica"],
  ["55000", "recovery is in progress"],
  ["42704", 'replication slot "wv" does not exist', /--create-slot/],
  ["42704", 'role "u" does not exist', /user=/],
  ["42704", 'unrecognized configuration parameter "no_such"'],
  ["58P01", "requested WAL segment 000000010000000000000002 has already been removed"],
  ["57P03", "the database system is starting up"],
  ["XX000", "replication slot, role, pg_hba.conf, max_wal_senders"],
  ["", ""],
];

for (const [sqlState, message, want] of TABLE) {
  test(`adviceFor() ${sqlState} ${message}`, () => {
    const advice = adviceFor({ sqlState, message });
    if (want === undefined) assert.equal(advice, undefined);
    else assert.match(advice ?? "", want);
    assert.doesNotMatch(advice ?? "", /\n/, "a hint is one line");
  });
}

test("adviceFor() never says to drop a slot that is another program's", () => {
  for (const [sqlState, message] of TABLE) {
    const drops = adviceFor({ sqlState, message })?.includes("--drop-slot") === true;
    assert.equal(drops, /no longer/.test(message), message);
  }
});

const SAID = { severity: "FATAL", detail: undefined, fields: new Map() };

test("ServerError's hint: the caller's own, else our advice, else the server's", () => {
  const known = { ...SAID, sqlState: "55006", message: "in use", hint: "the server's" };
  const unknown = { ...SAID, sqlState: "57P03", message: "starting", hint: "the server's" };
  assert.equal(new ServerError("Cannot start", known, { hint: "the caller's" }).hint, "the caller's");
  assert.match(new ServerError("Cannot start", known).hint ?? "", /^stop the other receiver/);
  assert.equal(new ServerError("Cannot start", unknown).hint, "the server's");
  assert.equal(new ServerError("Cannot start", { ...unknown, hint: undefined }).hint, undefined);
});
