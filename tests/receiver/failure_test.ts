import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ConnectionError,
  type ConnectionErrorKind,
  ProtocolError,
  ServerError,
} from "../../lib/protocol/errors.ts";
import { afterFailure, NotYetError, PermanentError } from "../../lib/receiver/failure.ts";
import {
  ArchiveConflictError,
  CorruptWalError,
  WalGapError,
  WrongClusterError,
} from "../../lib/wal/errors.ts";
import { lsn } from "../../lib/wal/lsn.ts";

type Outcome = "retry" | "stop";

function serverError(sqlState: string): ServerError {
  return new ServerError("Cannot stream WAL from db:5432", {
    severity: "ERROR",
    sqlState,
    message: "no",
    detail: undefined,
    hint: undefined,
    fields: new Map(),
  });
}

function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: no`), { code });
}

const connectionError = (kind: ConnectionErrorKind) => new ConnectionError(kind, "Cannot connect");

/** What, the error, what follows before anything was ever streamed, and what follows after. */
const TABLE: readonly (readonly [name: string, error: unknown, first: Outcome, later: Outcome])[] = [
  ["other bytes under a name", new ArchiveConflictError("x"), "stop", "stop"],
  ["another cluster", new WrongClusterError("x"), "stop", "stop"],
  ["a hole", new WalGapError("x"), "stop", "stop"],
  ["damaged WAL", new CorruptWalError(lsn(0n), "x"), "stop", "stop"],
  ["a state that time mends", new NotYetError("x"), "retry", "retry"],
  ["a state that time does not mend", new PermanentError("x"), "stop", "retry"],
  ["a server that does not speak the protocol", new ProtocolError("x"), "stop", "retry"],
  ["no address", connectionError("unresolved"), "retry", "retry"],
  ["nobody listens", connectionError("refused"), "retry", "retry"],
  ["no answer in time", connectionError("timeout"), "retry", "retry"],
  ["connection lost", connectionError("closed"), "retry", "retry"],
  ["no TLS", connectionError("tls"), "stop", "retry"],
  ["authentication that we can't give", connectionError("auth"), "stop", "retry"],
  ["broken messages", connectionError("protocol"), "stop", "retry"],
  ["no suitable server", connectionError("unsuitable"), "stop", "retry"],
  ["slot in use", serverError("55006"), "retry", "retry"],
  ["server starting", serverError("57P03"), "retry", "retry"],
  ["too many connections", serverError("53300"), "retry", "retry"],
  ["server shutting down", serverError("57P01"), "retry", "retry"],
  ["server crashed", serverError("57P02"), "retry", "retry"],
  ["out of memory", serverError("53200"), "retry", "retry"],
  ["connection failure", serverError("08006"), "retry", "retry"],
  ["input or output error", serverError("58030"), "retry", "retry"],
  ["internal error", serverError("XX000"), "retry", "retry"],
  ["wrong password", serverError("28P01"), "stop", "retry"],
  ["no line in pg_hba.conf", serverError("28000"), "stop", "retry"],
  ["no right to replicate", serverError("42501"), "stop", "retry"],
  ["no such slot", serverError("42704"), "stop", "retry"],
  ["slot exists", serverError("42710"), "stop", "retry"],
  ["a command it does not know", serverError("42601"), "stop", "retry"],
  ["slot lost, or logical", serverError("55000"), "stop", "retry"],
  ["not supported", serverError("0A000"), "stop", "retry"],
  ["bad parameter", serverError("22023"), "stop", "retry"],
  ["no such database", serverError("3D000"), "stop", "retry"],
  ["no right to a file", systemError("EACCES"), "stop", "retry"],
  ["not permitted", systemError("EPERM"), "stop", "retry"],
  ["read-only file system", systemError("EROFS"), "stop", "retry"],
  ["not a directory", systemError("ENOTDIR"), "stop", "retry"],
  ["a symbolic link", systemError("ELOOP"), "stop", "retry"],
  ["disk full", systemError("ENOSPC"), "retry", "retry"],
  ["quota used up", systemError("EDQUOT"), "retry", "retry"],
  ["disk error", systemError("EIO"), "retry", "retry"],
  ["too many open files", systemError("EMFILE"), "retry", "retry"],
  ["a defect of ours", new TypeError("x is undefined"), "stop", "retry"],
  ["a history that makes no sense", new SyntaxError("x"), "stop", "retry"],
  ["something that is no error", "no", "stop", "retry"],
];

/** What `connect()` throws when several hosts were tried. */
const hosts = (...errors: readonly unknown[]) =>
  new ConnectionError("unsuitable", "no host", { cause: new AggregateError(errors) });

const SEVERAL: typeof TABLE = [
  ["two lack the WAL", hosts(new WalGapError("x"), new WalGapError("x")), "stop", "stop"],
  [
    "two are of other clusters",
    hosts(new WrongClusterError("x"), new WrongClusterError("x")),
    "stop",
    "stop",
  ],
  [
    "one lacks the WAL, nobody listens at the other",
    hosts(new WalGapError("x"), connectionError("refused")),
    "retry",
    "retry",
  ],
  [
    "nobody listens, then one lacks the WAL",
    hosts(connectionError("refused"), new WalGapError("x")),
    "retry",
    "retry",
  ],
  [
    "one is of another cluster, one is behind",
    hosts(new WrongClusterError("x"), new NotYetError("x")),
    "retry",
    "retry",
  ],
  [
    "two are unsuitable",
    hosts(connectionError("unsuitable"), connectionError("unsuitable")),
    "stop",
    "retry",
  ],
  [
    "one is unsuitable, one lacks the WAL",
    hosts(connectionError("unsuitable"), new WalGapError("x")),
    "stop",
    "retry",
  ],
  ["one has no slot, one starts", hosts(new PermanentError("x"), serverError("57P03")), "retry", "retry"],
  [
    "one has no slot, one knows no such role",
    hosts(new PermanentError("x"), serverError("28000")),
    "stop",
    "retry",
  ],
  [
    "no one of three can be reached",
    hosts(
      ...["refused", "timeout", "unresolved"].map((kind) => connectionError(kind as ConnectionErrorKind)),
    ),
    "retry",
    "retry",
  ],
  [
    "one has two addresses, and nobody listens",
    new ConnectionError("refused", "x", {
      cause: new AggregateError([systemError("ECONNREFUSED"), systemError("ECONNREFUSED")]),
    }),
    "retry",
    "retry",
  ],
  ["hosts within hosts", hosts(hosts(new WalGapError("x")), hosts(new NotYetError("x"))), "retry", "retry"],
];

for (const [name, error, first, later] of SEVERAL) {
  test(`afterFailure() of several hosts, ${name}: ${first} at the first connect, ${later} once it has streamed`, () => {
    assert.equal(afterFailure(error, { streamed: false }), first);
    assert.equal(afterFailure(error, { streamed: true }), later);
  });
}

for (const [name, error, first, later] of TABLE) {
  test(`afterFailure() ${name}: ${first} at the first connect, ${later} once it has streamed`, () => {
    assert.equal(afterFailure(error, { streamed: false }), first);
    assert.equal(afterFailure(error, { streamed: true }), later);
  });
}
