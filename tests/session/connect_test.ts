import assert from "node:assert/strict";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConnectionSettings, Host } from "../../lib/conninfo/settings.ts";
import type { LogFields } from "../../lib/log.ts";
import {
  ConnectionError,
  type ConnectionErrorKind,
  ProtocolError,
  ServerError,
} from "../../lib/protocol/errors.ts";
import { askHosts, connect } from "../../lib/session/connect.ts";
import { formatAddress } from "../../lib/session/socket.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { concat, errorFields, frame, keepalive, walBytes, xlogData } from "../protocol/frames.ts";
import { type FakeConnection, startFakeServer } from "./fake_server.ts";
import { Counting, NO_TLS, settingsFor, SILENT, SLOW, tcpHost } from "./support.ts";

const PASSWORD = "open sesame äß";

function isConnectionError(kind: ConnectionErrorKind, text: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof ConnectionError, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.match(error.message, text);
    return true;
  };
}

function isServerError(sqlState: string) {
  return (error: unknown) => {
    assert.ok(error instanceof ServerError, String(error));
    assert.equal(error.sqlState, sqlState);
    return true;
  };
}

async function nobodysPort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe("connect()", () => {
  let cluster: Cluster;

  before(async () => {
    cluster = await startCluster({
      hba: [
        "host all,replication postgres all trust",
        "host all,replication scram all scram-sha-256",
        "host all,replication md5 all md5",
        "host all,replication plain all password",
        "host all,replication nobody all reject",
        "local all,replication all trust",
      ],
      settings: { listen_addresses: "127.0.0.1,::1" },
    });
    await cluster.sql(
      `SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN REPLICATION PASSWORD '${PASSWORD}'; CREATE ROLE plain LOGIN REPLICATION PASSWORD '${PASSWORD}';
       CREATE ROLE nobody LOGIN REPLICATION; CREATE ROLE weak LOGIN; SET password_encryption = 'md5';
       CREATE ROLE md5 LOGIN REPLICATION PASSWORD '${PASSWORD}'`,
    );
  }, SLOW);

  after(async () => await cluster.destroy(), SLOW);

  const here = (password?: string): Host => tcpHost(cluster.port, password === undefined ? {} : { password });
  const open = (hosts: readonly Host[], changes: Partial<ConnectionSettings> = {}) =>
    connect(settingsFor(hosts, changes), { log: SILENT });
  const opens = async (hosts: readonly Host[], changes: Partial<ConnectionSettings> = {}) => {
    const source = await open(hosts, changes);
    const name = await source.show("application_name");
    await source.close();
    return `${source.address} ${name}`;
  };

  for (const user of ["scram", "md5", "plain"]) {
    it(`logs in as ${user}, and is refused with a wrong password`, SLOW, async () => {
      await opens([here(PASSWORD)], { user });
      await assert.rejects(open([here("wrong")], { user }), (error) => {
        assert.ok(error instanceof ServerError);
        assert.equal(error.sqlState, "28P01");
        assert.match(error.message, /^Cannot connect to 127\.0\.0\.1:\d+: server says FATAL 28P01: password/);
        assert.doesNotMatch(error.message + error.stack, /wrong|sesame/);
        return true;
      });
      await assert.rejects(
        open([here()], { user }),
        isConnectionError("auth", /asks for a password, and none is given/),
      );
    });
  }

  it("holds to require_auth before a password is sent", SLOW, async () => {
    const method = { scram: "scram-sha-256", md5: "md5", plain: "password", postgres: "none" } as const;
    for (const [user, name] of Object.entries(method)) {
      await opens([here(PASSWORD)], { user, requireAuth: [name] });
      await opens([here(PASSWORD)], { user, requireAuth: ["gss", name] });
      await opens([here(PASSWORD)], { user, requireAuth: ["!gss"] });
      for (const requireAuth of [["gss"], ["gss", "sspi"], [`!${name}`], [`!${name}`, "!gss"]]) {
        const refused = isConnectionError("auth", /^Cannot connect to 127\.0\.0\.1:\d+: the server /);
        await assert.rejects(
          open([here(PASSWORD)], { user, requireAuth }),
          refused,
          `${user} ${requireAuth}`,
        );
      }
    }
  });

  it("a role without REPLICATION, and pg_hba.conf, refuse by the server's words", SLOW, async () => {
    await assert.rejects(open([here()], { user: "nobody" }), isServerError("28000"));
    const socket: Host = {
      name: "local",
      port: cluster.port,
      password: undefined,
      target: {
        kind: "unix",
        path: join(cluster.socketDirectory, `.s.PGSQL.${cluster.port}`),
      },
    };
    await assert.rejects(open([socket], { user: "weak" }), isServerError("42501"));
  });

  it("takes Unix sockets, whatever TLS says", SLOW, async () => {
    const path = join(cluster.socketDirectory, `.s.PGSQL.${cluster.port}`);
    const host: Host = {
      name: "local",
      port: cluster.port,
      password: undefined,
      target: { kind: "unix", path },
    };
    assert.equal(await opens([host], { tls: { ...NO_TLS, mode: "verify-full" } }), `${path} session test`);
    const missing: Host = { ...host, target: { kind: "unix", path: `${path}.no` } };
    await assert.rejects(open([missing]), isConnectionError("refused", /^Cannot connect to \/.*\.no: /));
  });

  it("takes IPv6 addresses, and names", SLOW, async () => {
    assert.equal(await opens([tcpHost(cluster.port, { name: "::1" })]), `[::1]:${cluster.port} session test`);
    assert.equal(
      await opens([tcpHost(cluster.port, { name: "localhost" })]),
      `localhost:${cluster.port} session test`,
    );
    await assert.rejects(
      open([tcpHost(cluster.port, { name: "no.such.invalid" })]),
      isConnectionError("unresolved", /^Cannot connect to no\.such\.invalid:\d+: /),
    );
  });

  it("passes application name and options; PG* variables count for nothing", SLOW, async () => {
    const before = { ...process.env };
    Object.assign(process.env, {
      PGHOST: "example.invalid",
      PGPORT: "1",
      PGUSER: "x",
      PGDATABASE: "x",
      PGPASSWORD: "x",
      PGAPPNAME: "from env",
      PGOPTIONS: "-c wal_sender_timeout=1s",
      PGSSL: "require",
      PGTARGETSESSIONATTRS: "any",
      PGTARGET_SESSION_ATTRS: "standby",
      PGCONNECT_TIMEOUT: "1",
      PGFETCH_TYPES: "true",
      PGPREPARE: "true",
      PGMAX: "7",
      PGDEBUG: "1",
    });
    try {
      assert.match(await opens([here()]), / session test$/);
      assert.match(await opens([here()], { applicationName: undefined }), / walvault$/);
      process.env["PGTARGETSESSIONATTRS"] = "standby";
      const source = await open([here()], {
        options: "-c wal_sender_timeout=31s",
        applicationName: "an 'odd' name",
      });
      assert.equal(await source.show("wal_sender_timeout"), "31s");
      assert.equal(await source.show("application_name"), "an 'odd' name");
      await source.close();
    } finally {
      for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
      Object.assign(process.env, before);
    }
  });

  it("tries hosts in their order, and the login's refusal ends the search", SLOW, async () => {
    const closed = tcpHost(await nobodysPort());
    assert.equal(await opens([closed, here()]), `127.0.0.1:${cluster.port} session test`);
    await assert.rejects(
      open([closed, tcpHost(cluster.port, { password: "wrong" }), here(PASSWORD)], { user: "scram" }),
      isServerError("28P01"),
    );
    const other = tcpHost(await nobodysPort());
    await assert.rejects(open([closed, other]), (error) => {
      isConnectionError("refused", new RegExp(`:${closed.port}: .*; .*:${other.port}: `))(error);
      assert.equal(((error as Error).cause as AggregateError).errors.length, 2);
      return true;
    });
    assert.match(await opens([closed, here()], { loadBalanceHosts: true }), /session test/);
  });

  it("askHosts() asks every host, of whatever kind, and each fails by itself", SLOW, async () => {
    const hosts = [here(), tcpHost(await nobodysPort()), here()];
    const settings = settingsFor(hosts, { targetSessionAttrs: "standby" });
    const asked: string[] = [];
    const signal = new AbortController().signal;
    const replies = await askHosts(settings, { log: SILENT, signal }, async (session) => {
      asked.push(session.address);
      if (asked.length === 2) throw new Error("what is this");
      return await session.show("wal_segment_size");
    });
    const kinds = replies.map((reply) => "answer" in reply ? reply.answer : (reply.error as Error).message);
    assert.equal(asked.length, 2);
    assert.deepEqual([...kinds].sort(), [kinds[1], "16MB", "what is this"].sort());
    assert.match(kinds[1]!, /Cannot connect to /);
    assert.deepEqual(replies.map(({ address }) => address), hosts.map(formatAddress));
    // A login that is refused keeps nobody else from answering.
    const refused: Host = { ...here(), password: "wrong" };
    const scram = settingsFor([refused, here(PASSWORD)], { user: "scram" });
    const answers = await askHosts(scram, { log: SILENT, signal }, () => Promise.resolve("here"));
    assert.deepEqual(answers.map((reply) => "answer" in reply), [false, true]);
  });

  it("askHosts() ends when it is told to, whatever a host does", SLOW, async () => {
    const abort = new AbortController();
    const reason = new Error("Stopped by SIGTERM");
    const asking = askHosts(settingsFor([here()]), { log: SILENT, signal: abort.signal }, async (session) => {
      const { flushLsn: startLsn, timeline } = await session.identifySystem();
      const stream = await session.startReplication({ slot: undefined, startLsn, timeline }, new Counting());
      setTimeout(() => abort.abort(reason), 50);
      await stream.ended;
    });
    await assert.rejects(asking, reason);
  });

  it("showAfresh() asks the same server on another connection", SLOW, async () => {
    const source = await open([here()]);
    const { systemIdentifier } = await source.identifySystem();
    assert.deepEqual(await source.showAfresh("wal_segment_size"), { systemIdentifier, value: "16MB" });
    await source.close();
  });

  it("accept() can turn a server down", SLOW, async () => {
    const seen: number[] = [];
    const options = {
      log: SILENT,
      accept: async (source: { identifySystem(): Promise<{ timeline: number }> }) => {
        seen.push((await source.identifySystem()).timeline);
        return seen.length === 2;
      },
    };
    const source = await connect(settingsFor([here(), here()]), options);
    assert.deepEqual(seen, [1, 1]);
    await source.close();
    await assert.rejects(
      connect(settingsFor([here()]), options),
      isConnectionError("unsuitable", /was not accepted/),
    );
    const boom = new Error("boom");
    await assert.rejects(
      connect(settingsFor([here()]), { log: SILENT, accept: () => Promise.reject(boom) }),
      boom,
    );
  });

  it("target_session_attrs tells primary from standby, and read-only from read-write", SLOW, async () => {
    await using standby = await cluster.createStandby();
    const hosts = { primary: here(), standby: tcpHost(standby.port) };
    const first = async (
      order: readonly Host[],
      targetSessionAttrs: ConnectionSettings["targetSessionAttrs"],
    ) => {
      try {
        const source = await open(order, { targetSessionAttrs });
        await source.close();
        return source.address.endsWith(`:${cluster.port}`) ? "primary" : "standby";
      } catch (error) {
        assert.ok(error instanceof ConnectionError && error.kind === "unsuitable", String(error));
        return "none";
      }
    };
    const both = [hosts.primary, hosts.standby];
    const reversed = both.toReversed();
    assert.equal(await first(both, "any"), "primary");
    assert.equal(await first(reversed, "any"), "standby");
    assert.equal(await first(reversed, "primary"), "primary");
    assert.equal(await first(reversed, "read-write"), "primary");
    assert.equal(await first(both, "standby"), "standby");
    assert.equal(await first(both, "read-only"), "standby");
    assert.equal(await first(both, "prefer-standby"), "standby");
    assert.equal(await first([hosts.primary], "prefer-standby"), "primary");
    assert.equal(await first([hosts.primary], "standby"), "none");
    assert.equal(await first([hosts.standby], "primary"), "none");
    const readOnly = { options: "-c default_transaction_read_only=on" };
    await assert.rejects(
      open([hosts.primary], { ...readOnly, targetSessionAttrs: "read-write" }),
      isConnectionError("unsuitable", /it is read-only, want read-write/),
    );
    await opens([hosts.primary], { ...readOnly, targetSessionAttrs: "read-only" });
  });

  it("readSlot() before PostgreSQL 15 says what it needs when SQL is refused", SLOW, async () => {
    const source = await open([here()], { user: "postgres", database: "no_such" });
    if (source.serverVersion >= 150_000) assert.equal(await source.readSlot("s"), undefined);
    else {
      await assert.rejects(source.readSlot("s"), (error) => {
        isServerError("3D000")(error);
        assert.match(
          (error as ServerError).message,
          /^Cannot read slot s of 127\.0\.0\.1:\d+: server says FATAL 3D000/,
        );
        assert.match((error as ServerError).hint!, /pg_hba\.conf/);
        return true;
      });
    }
    await source.close();
  });

  it("notices go to the log, not to stdout", SLOW, async () => {
    const lines: (LogFields | undefined)[] = [];
    const log = { ...SILENT, debug: (_event: string, fields?: LogFields) => void lines.push(fields) };
    const source = await connect(settingsFor([here()], { options: "-c client_min_messages=debug1" }), {
      log,
    });
    await source.close();
    assert.ok(lines.some((fields) => fields?.["severity"] === "DEBUG"), JSON.stringify(lines));
  });

  it("a full server is not a refusal of the login", SLOW, async () => {
    const sources = [];
    try {
      for (let i = 0; i < 30; i++) sources.push(await open([here()]));
      assert.fail("30 walsenders");
    } catch (error) {
      isServerError("53300")(error);
    } finally {
      for (const source of sources) await source.close();
    }
  });
});

const OK = frame("R", [0, 0, 0, 0]);
const READY = frame("Z", [0x49]);

function text(value: string): number[] {
  return [...new TextEncoder().encode(value)];
}

function table(column: string, value: string): Uint8Array {
  const bytes = text(value);
  return concat(
    frame("T", [
      0,
      1,
      ...text(column),
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      25,
      0xff,
      0xff,
      0xff,
      0xff,
      0xff,
      0xff,
      0,
      0,
    ]),
    frame("D", [0, 1, 0, 0, 0, bytes.length, ...bytes]),
    frame("C", [...text("SHOW"), 0]),
    READY,
  );
}

const LOGGED_IN = concat(
  OK,
  frame("S", [...text("a"), 0, ...text("b"), 0]),
  frame("K", [0, 0, 0, 1, 0, 0, 0, 2]),
  READY,
);
const VERSION = table("server_version_num", "150018");
const FATAL = frame("E", errorFields("SFATAL", "VFATAL", "C57P03", "Mthe database system is starting up"));

/** Lets the client in and answers its first command. */
async function logIn(connection: FakeConnection): Promise<void> {
  await connection.receive();
  connection.send(LOGGED_IN);
  await connection.receive();
  connection.send(VERSION);
}

describe("connect() to something that is no good server", () => {
  const settings = (port: number, changes: Partial<ConnectionSettings> = {}) =>
    settingsFor([tcpHost(port, { password: "secret" })], { connectTimeoutMs: 700, ...changes });
  const attempt = (port: number, changes: Partial<ConnectionSettings> = {}) =>
    connect(settings(port, changes), { log: SILENT });
  const WITH_TLS = { tls: { ...NO_TLS, mode: "require" } } as const;

  for (const [what, changes] of [["plain", {}], ["asking for TLS", WITH_TLS]] as const) {
    it(`gives up on one that says nothing, ${what}`, SLOW, async () => {
      await using server = await startFakeServer(() => {});
      const beganAt = performance.now();
      await assert.rejects(
        attempt(server.port, changes),
        isConnectionError("timeout", /^Cannot connect to 127\.0\.0\.1:\d+: no answer in 0\.7 s$/),
      );
      assert.ok(performance.now() - beganAt < 2500);
      await sleep(300);
      assert.equal(server.connections, 1);
    });

    it(`does not loop on one that closes at once, ${what}`, SLOW, async () => {
      await using server = await startFakeServer(({ socket }) => void socket.end());
      await assert.rejects(
        attempt(server.port, changes),
        isConnectionError("closed", /^Cannot connect to 127/),
      );
      await sleep(300);
      assert.equal(server.connections, 1);
    });

    it(`refuses garbage, ${what}`, SLOW, async () => {
      await using server = await startFakeServer(({ send }) => send("HTTP/1.1 400 Bad Request\r\n\r\n"));
      await assert.rejects(
        attempt(server.port, changes),
        isConnectionError("protocol", /^Cannot connect to 127/),
      );
      assert.equal(server.connections, 1);
    });
  }

  it("respects the signal at once, before and during", SLOW, async () => {
    await using server = await startFakeServer(() => {});
    const controller = new AbortController();
    const reason = new Error("the user pressed Ctrl-C");
    const waiting = assert.rejects(
      connect(settings(server.port, { connectTimeoutMs: undefined }), {
        log: SILENT,
        signal: controller.signal,
      }),
      reason,
    );
    await sleep(100);
    controller.abort(reason);
    await waiting;
    await assert.rejects(connect(settings(server.port), { log: SILENT, signal: controller.signal }), reason);
    assert.equal(server.connections, 1);
  });

  it("bytes behind the answer to SSLRequest are refused", SLOW, async () => {
    await using server = await startFakeServer(async ({ receive, send }) => {
      await receive();
      send("Sevil");
    });
    await assert.rejects(
      attempt(server.port, WITH_TLS),
      isConnectionError("protocol", /answer to SSLRequest: 5 bytes/),
    );
  });

  it("an error in place of the answer to SSLRequest is a refusal, which time may mend", SLOW, async () => {
    await using server = await startFakeServer(async ({ receive, send, socket }) => {
      await receive();
      send("Ecould not fork new process for connection: Resource temporarily unavailable\n\0");
      socket.end();
    });
    await assert.rejects(
      attempt(server.port, WITH_TLS),
      isConnectionError("refused", /the server can start no session now$/),
    );
    assert.equal(server.connections, 1);
  });

  it("FATAL at the start is the server's word", SLOW, async () => {
    await using server = await startFakeServer(async ({ receive, send, socket }) => {
      await receive();
      send(FATAL);
      socket.end();
    });
    await assert.rejects(attempt(server.port), isServerError("57P03"));
    assert.equal(server.connections, 1);
  });

  const sasl = frame("R", [0, 0, 0, 10, ...text("SCRAM-SHA-256"), 0, 0]);
  for (
    const [what, script, kind, message] of [
      [
        "asks for Kerberos",
        [frame("R", [0, 0, 0, 7])],
        "auth",
        /asks for gss authentication, which is not supported/,
      ],
      ["asks for something unheard of", [frame("R", [0, 0, 0, 99])], "auth", /method 99/],
      ["knows no SCRAM", [frame("R", [0, 0, 0, 10, ...text("X"), 0, 0])], "auth", /no SASL mechanism/],
      ["lets us in without its proof", [sasl, OK], "auth", /without its proof/],
      [
        "wants endless SCRAM iterations",
        [sasl, (nonce: string) => challenge(`r=${nonce}x,s=AAAA,i=2147483647`)],
        "auth",
        /2147483647 SCRAM iterations/,
      ],
      [
        "has a nonce of its own",
        [sasl, () => challenge("r=abc,s=AAAA,i=4096")],
        "auth",
        /does not continue ours/,
      ],
      [
        "sends half a SCRAM challenge",
        [sasl, (nonce: string) => challenge(`r=${nonce}x,i=4096`)],
        "protocol",
        /SCRAM/,
      ],
      [
        "has the wrong SCRAM proof",
        [
          sasl,
          (nonce: string) => challenge(`r=${nonce}x,s=AAAA,i=4096`),
          concat(frame("R", [0, 0, 0, 12, ...text("v=AAAA")]), OK, READY),
        ],
        "auth",
        /did not prove/,
      ],
      ["sends rows before the login", [frame("D", [0, 0])], "protocol", /'D' before the login is over/],
      [
        "sends a message unheard of",
        [concat(OK, frame("?", []))],
        "protocol",
        /'\?': it does not belong here/,
      ],
      [
        "sends a message too long",
        [concat(OK, Uint8Array.of(0x53, 0x7f, 0, 0, 0))],
        "protocol",
        /length 2130706432/,
      ],
      [
        "streams without being asked",
        [concat(OK, READY), frame("W", [0, 0, 0])],
        "protocol",
        /nothing was asked/,
      ],
      [
        "copies without being asked",
        [concat(OK, READY), frame("d", [1])],
        "protocol",
        /'d': it does not belong/,
      ],
      [
        "answers with two tables",
        [concat(OK, READY), concat(table("a", "1").slice(0, -6), table("a", "1"))],
        "protocol",
        /more than one table/,
      ],
      [
        "answers with no version",
        [concat(OK, READY), table("server_version_num", "fifteen")],
        "protocol",
        /fifteen/,
      ],
      [
        "answers with a row out of nowhere",
        [concat(OK, READY), concat(frame("D", [0, 1]), READY)],
        "protocol",
        /1 values, want 0/,
      ],
      ["answers with broken columns", [concat(OK, READY), frame("T", [0, 9, 65])], "protocol", /no end/],
    ] as const
  ) {
    it(`one that ${what} is refused`, SLOW, async () => {
      await using server = await startFakeServer(async ({ receive, send }) => {
        for (const step of script) {
          const said = await receive();
          const nonce = /r=([^,]+)$/.exec(said)?.[1] ?? "";
          send(typeof step === "function" ? step(nonce) : step);
        }
      });
      await assert.rejects(attempt(server.port), isConnectionError(kind, message));
      assert.equal(server.connections, 1);
    });
  }

  it("nothing of an answer is taken twice when it comes byte by byte", SLOW, async () => {
    await using server = await startFakeServer(async ({ receive, send, socket }) => {
      socket.setNoDelay(true);
      for (const answer of [LOGGED_IN, VERSION, table("a", "b")]) {
        await receive();
        for (const byte of answer) {
          send(Uint8Array.of(byte));
          await sleep(0);
        }
      }
    });
    const source = await attempt(server.port, { connectTimeoutMs: 10_000 });
    assert.equal(source.serverVersion, 150_018);
    assert.equal(await source.show("a"), "b");
    await source.close();
  });

  const START = { slot: undefined, startLsn: parseLsn("0/3000000"), timeline: timelineId(1) };
  const W = frame("W", [0, 0, 0]);
  for (
    const [what, bytes, kind, message] of [
      [
        "leaves a gap",
        xlogData(0x3000001n, walBytes(5)),
        "protocol",
        /Cannot take WAL at 0\/3000001: want 0\/3000000/,
      ],
      ["sends rows in the stream", frame("D", [0, 0]), "protocol", /'D': a stream is running/],
      ["is ready in the stream", READY, "protocol", /'Z': a stream is running/],
      ["starts twice", W, "protocol", /nothing was asked to stream/],
      ["sends a broken notice", frame("N", [65, 65]), "protocol", /no end/],
      [
        "ends without a next timeline",
        concat(frame("c", []), frame("C", [65, 0]), READY),
        "protocol",
        /no timeline follows/,
      ],
      [
        "says good-bye in half a message",
        xlogData(0x3000000n, walBytes(9)).slice(0, 30),
        "closed",
        /closed the connection/,
      ],
    ] as const
  ) {
    it(`a stream that ${what} fails`, SLOW, async () => {
      await using server = await startFakeServer(async (connection) => {
        await logIn(connection);
        await connection.receive();
        connection.send(W, bytes);
        if (kind === "closed") connection.socket.end();
      });
      const source = await attempt(server.port);
      const stream = await source.startReplication(START, new Counting());
      await assert.rejects(stream.ended, isConnectionError(kind, message));
      await assert.rejects(source.identifySystem(), (error) => {
        assert.equal((error as Error).cause instanceof ProtocolError, kind === "protocol");
        return true;
      });
      await source.close();
    });
  }

  it("notices and settings may come between, and a half-open connection ends by close()", SLOW, async () => {
    const notice = frame("N", errorFields("SNOTICE", "C00000", "Mhello"));
    const wal = xlogData(0x3000000n, walBytes(70_000));
    await using server = await startFakeServer(async (connection) => {
      await logIn(connection);
      await connection.receive();
      connection.send(
        W,
        notice,
        wal,
        frame("S", [...text("a"), 0, ...text("c"), 0]),
        frame("A", []),
        keepalive(0x4000000n, 1),
      );
      connection.socket.pause();
    });
    const source = await attempt(server.port);
    const handler = new Counting();
    const stream = await source.startReplication(START, handler);
    await handler.reached(0x3000000n + 70_000n);
    while (handler.repliesAsked === 0) await sleep(5);
    assert.equal(handler.walEndLsn, 0x4000000n);
    // The other side reads nothing: only the newest status is kept, so memory does not grow.
    const status = { writeLsn: START.startLsn, flushLsn: START.startLsn, replyRequested: true };
    for (let i = 0; i < 200_000; i++) stream.sendStatus(status);
    const beganAt = performance.now();
    const closed = source.close();
    await assert.rejects(
      stream.ended,
      isConnectionError("closed", /^Cannot stream WAL from 127.*closed here$/),
    );
    assert.ok(performance.now() - beganAt < 500);
    await closed;
    assert.ok(performance.now() - beganAt < 4000);
  });

  it("the timeline's end must be reached, and lead to a higher one", SLOW, async () => {
    for (const [next, lsn] of [["2", "0/3000001"], ["1", "0/3000000"]] as const) {
      await using server = await startFakeServer(async (connection) => {
        await logIn(connection);
        await connection.receive();
        const column = (name: string) => [...text(name), 0, ...new Uint8Array(18)];
        const cell = (value: string) => [0, 0, 0, value.length, ...text(value)];
        connection.send(
          frame("T", [0, 2, ...column("next_tli"), ...column("next_tli_startpos")]),
          frame("D", [0, 2, ...cell(next), ...cell(lsn)]),
          frame("C", [65, 0]),
          READY,
        );
      });
      const source = await attempt(server.port);
      await assert.rejects(
        source.startReplication(START, new Counting()),
        isConnectionError("protocol", /the stream of timeline 1 ended at 0\/3000000, but timeline/),
      );
      await source.close();
    }
  });
});

function challenge(data: string): Uint8Array {
  return frame("R", [0, 0, 0, 11, ...text(data)]);
}
