import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import * as os from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ConninfoError } from "../../lib/conninfo/conninfo_error.ts";
import type { ConninfoFiles } from "../../lib/conninfo/conninfo_files.ts";
import { resolveConnection } from "../../lib/conninfo/resolve_connection.ts";

/** A real libpq: any version knows the keywords used here. */
const PSQL = ["/usr/lib/postgresql/15/bin/psql", "/usr/bin/psql"].find((path) => fs.existsSync(path));

const FILES: ConninfoFiles = {
  readText: (path) => fs.existsSync(path) ? fs.readFileSync(path, "utf8") : undefined,
  mode: (path) => fs.existsSync(path) ? fs.statSync(path).mode : undefined,
  exists: (path) => fs.existsSync(path),
  owner: (path) => fs.existsSync(path) ? fs.statSync(path).uid : undefined,
};

type Env = Readonly<Record<string, string>>;

function resolve(conninfo: string, env: Env) {
  return resolveConnection({
    conninfo,
    env,
    files: FILES,
    homeDirectory: env["HOME"],
    operatingSystemUser: os.userInfo().username,
    fallbackApplicationName: "psql",
  }).settings;
}

/** What psql says on stderr; it never prompts and never connects to anything but what it is told. */
function psql(conninfo: string, env: Env): Promise<string> {
  const args = ["--no-password", "--no-psqlrc", "--dbname", conninfo, "--command", "SELECT 1"];
  const { promise, resolve: done } = Promise.withResolvers<string>();
  execFile(
    PSQL!,
    args,
    { env: { LC_ALL: "C", ...env }, timeout: 10_000 },
    (_error, _stdout, stderr) => done(stderr),
  );
  return promise;
}

/** Nothing listens on these ports or in these directories: the refusal tells where libpq went. */
const DESTINATIONS: readonly (readonly [string, Env?])[] = [
  ["host=127.0.0.1 port=1"],
  ["host=/nope,/nope2 port=1,2"],
  ["host=/nope,127.0.0.1 port=7"],
  ["host='/no pe' port=' 77 '"],
  ["host=/no\\ pe"],
  ["host='' port=1"],
  ["host='' port=1", { PGHOST: "/env" }],
  ["postgresql:///db?port=1", { PGHOST: "/env" }],
  ["postgresql://127.0.0.1:1,127.0.0.2:2/db"],
  ["postgresql://127.0.0.1,127.0.0.2/?port=1"],
  ["postgresql://%2Fnope:5,%2fnope2"],
  ["postgresql://127.0.0.1:1?host=/x"],
  ["postgresql://u:p%40%2f@127.0.0.1:1"],
  ["hostaddr=127.0.0.1 host=nowhere.invalid port=1"],
  ["hostaddr=127.0.0.1,127.0.0.2 port=1,2"],
  ["host=/a host=/b"],
  ["host=/nope,,/nope2 port=1"],
  ["host=@nope port=1"],
  ["user=x port=1", { PGHOST: "/env,/env2", PGPORT: "9" }],
];

test("libpq goes where resolveConnection() says", { skip: PSQL === undefined }, async () => {
  for (const [conninfo, env] of DESTINATIONS) {
    const stderr = await psql(conninfo, env ?? {});
    const went = [
      ...stderr.matchAll(/on socket "([^"]*)" failed|at "([^"]*)"(?: \(([^)]*)\))?, port (\d+) failed/g),
    ]
      .map(([, socket, host, address, port]) => socket ?? `${address ?? host}:${port}`);
    const said = resolve(conninfo, env ?? {}).hosts.map(({ target, port }) =>
      target.kind === "unix" ? target.path : `${target.address}:${port}`
    );
    assert.deepEqual(said, went, `${conninfo}: ${stderr}`);
  }
});

const REFUSED_BY_BOTH: readonly (readonly [string, Env?])[] = [
  ["hots=a"],
  ["host=/x port"],
  ["host='/x"],
  ["=3"],
  ["host=/x port=abc"],
  ["host=/x port=0x10"],
  ["host=/x,/y port=1,2,3"],
  ["host=/x,/y hostaddr=127.0.0.1"],
  ["hostaddr=foo"],
  ["host=/x sslmode=''"],
  ["host=/x", { PGSSLMODE: "" }],
  ["host=/x target_session_attrs=foo"],
  ["host=/x channel_binding=foo"],
  ["host=/x gssencmode=foo"],
  ["host=/x ssl_min_protocol_version=tlsv1.3 ssl_max_protocol_version=TLSv1.2"],
  ["host=/x service=nope"],
  ["host=/x service=''"],
  ["host=/x service=nope", { PGSERVICEFILE: "/nope" }],
  [`host=/${"a".repeat(120)}`],
  ["postgresql://h?zzz"],
  ["postgresql://h?&"],
  ["postgresql://h?a=b=c"],
  ["postgresql://[::1"],
  ["postgresql://[]"],
  ["postgresql://[::1]z"],
  ["postgresql://a%00b"],
  ["postgresql://%1"],
  ["postgresql://?ssl=false"],
  ["postgres://:1?host=/x&port=5#frag"],
];

test(
  "libpq refuses without a connection what resolveConnection() refuses",
  { skip: PSQL === undefined },
  async () => {
    for (const [conninfo, env] of REFUSED_BY_BOTH) {
      const stderr = await psql(conninfo, env ?? {});
      assert.match(stderr, /^psql: error: /, conninfo);
      assert.doesNotMatch(stderr, /connection to server/, conninfo);
      assert.throws(() => resolve(conninfo, env ?? {}), ConninfoError, conninfo);
    }
  },
);

interface Startup {
  readonly parameters: Readonly<Record<string, string>>;
  password: string | undefined;
}

/** A server that asks each client for its password in clear text, writes it down and hangs up. */
async function listen(startups: Startup[]) {
  const server = net.createServer((socket) => {
    let bytes = Buffer.alloc(0);
    let startup: Startup | undefined;
    socket.on("error", () => {}); // A client without a password hangs up.
    socket.on("data", (data) => {
      bytes = Buffer.concat([bytes, data]);
      if (startup === undefined && bytes.length >= 4 && bytes.length >= bytes.readInt32BE(0)) {
        startup = { parameters: decodeStartup(bytes), password: undefined };
        startups.push(startup);
        bytes = Buffer.alloc(0);
        socket.write(Uint8Array.of(0x52, 0, 0, 0, 8, 0, 0, 0, 3));
      } else if (startup !== undefined && bytes.length > 5 && bytes.length > bytes.readInt32BE(1)) {
        startup.password = bytes.subarray(5, -1).toString("utf8");
        socket.destroy();
      }
    });
  });
  const { promise, resolve: ready } = Promise.withResolvers<void>();
  server.listen(0, "127.0.0.1", () => ready());
  await promise;
  return { port: (server.address() as net.AddressInfo).port, close: () => server.close() };
}

/** The names and values after a StartupMessage's length and version. */
function decodeStartup(bytes: Buffer): Record<string, string> {
  const fields = bytes.subarray(8, bytes.readInt32BE(0)).toString("utf8").split("\0");
  const parameters: Record<string, string> = {};
  for (let index = 0; fields[index]; index += 2) parameters[fields[index]!] = fields[index + 1]!;
  return parameters;
}

test(
  "libpq sends the user, names and password that resolveConnection() finds",
  { skip: PSQL === undefined },
  async () => {
    const startups: Startup[] = [];
    const server = await listen(startups);
    const home = fs.mkdtempSync(join(os.tmpdir(), "conninfo-"));
    const { port } = server;
    const passfile = [
      "# comment",
      `127.0.0.1:${port}:replication:a:plain`,
      `127.0.0.1:*:replication:b\\:b:wi\\:th\\\\esc\\apes:rest\r`,
      "*:*:*:c:trailing\\",
      "*:*:postgres:d:other database",
      "*:*:*:e:",
      "*:*:*:e:second",
      "name.invalid:*:*:f:by name",
      "*f:*:*:f:no star",
      "127\\.0.0.1:*:*:g:escaped dot",
    ].join("\n");
    fs.writeFileSync(join(home, ".pgpass"), passfile, { mode: 0o600 });
    fs.writeFileSync(join(home, "open"), passfile, { mode: 0o640 });
    fs.writeFileSync(
      join(home, ".pg_service.conf"),
      ["[s]", "  user=from service ", "user=second", "password= spaced", "[t]", "user=t"].join("\n"),
    );
    const base = `host=127.0.0.1 port=${port} dbname=replication sslmode=disable gssencmode=disable`;
    const uri = `127.0.0.1:${port}/replication`;
    const mode = "sslmode=disable&gssencmode=disable";
    const cases: readonly (readonly [string, Env?])[] = [
      [`${base} user=a`],
      [`${base} user=b:b`],
      [`${base} user=c`],
      [`${base} user=d`],
      [`${base} user=e`],
      [`${base} user=f`],
      [`${base} user=g`],
      [`${base} user=a password=''`],
      [`${base} user=a password='it\\'s'`, { PGPASSWORD: "env" }],
      [`${base} user=a`, { PGPASSWORD: "env" }],
      [`${base} user=a`, { PGPASSWORD: "" }],
      [`${base} user=a passfile='${home}/open'`],
      [`${base} user=a`, { PGPASSFILE: `${home}/absent` }],
      [`${base} user=f host=name.invalid hostaddr=127.0.0.1`],
      [`${base} service=s`],
      [`${base} service=t password=p`],
      [`${base} user=u`, { PGSERVICE: "s" }],
      [`${base} user=u password=p application_name=app options='-c geqo=off'`],
      [`${base} user=u password=p application_name=''`, { PGAPPNAME: "env" }],
      [`${base} password=p`, { PGUSER: "env", PGAPPNAME: "app", PGOPTIONS: "-c x=y" }],
      [`postgresql://a%40b:p%2Fq%C3%A9@${uri}?${mode}`],
      [`postgresql://u:p:q?r&s=t@${uri}?${mode}`],
      [`postgresql://u@${uri}?password=x+y%20z&${mode}`],
    ];
    try {
      for (const [conninfo, extra] of cases) {
        const env = { HOME: home, ...extra };
        startups.length = 0;
        const stderr = await psql(conninfo, env);
        assert.equal(startups.length, 1, `${conninfo}: ${stderr}`);
        const { parameters, password } = startups[0]!;
        const settings = resolve(conninfo, env);
        assert.deepEqual(
          [
            settings.user,
            settings.hosts[0]?.password,
            settings.database,
            settings.applicationName,
            settings.options,
          ],
          [
            parameters["user"],
            password,
            parameters["database"],
            parameters["application_name"],
            parameters["options"],
          ],
          conninfo,
        );
      }
    } finally {
      server.close();
      fs.rmSync(home, { recursive: true });
    }
  },
);
