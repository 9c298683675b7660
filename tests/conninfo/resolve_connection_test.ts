import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConninfoError } from "../../lib/conninfo/conninfo_error.ts";
import { KEYWORD_NAMES, keywordRow } from "../../lib/conninfo/keywords.ts";
import { fakeFiles, resolve } from "./fake_files.ts";

type Input = Parameters<typeof resolve>[1];

function refusal(conninfo: string, input?: Input): ConninfoError {
  try {
    resolve(conninfo, input);
  } catch (error) {
    assert.ok(error instanceof ConninfoError, String(error));
    return error;
  }
  throw new Error(`not refused: ${conninfo}`);
}

test("resolveConnection() has libpq's defaults", () => {
  assert.deepEqual(resolve(undefined), {
    settings: {
      hosts: [{
        name: "/var/run/postgresql",
        port: 5432,
        target: { kind: "unix", path: "/var/run/postgresql/.s.PGSQL.5432" },
        password: undefined,
      }],
      user: "osuser",
      database: undefined,
      applicationName: "walvault",
      options: undefined,
      clientEncoding: undefined,
      connectTimeoutMs: undefined,
      targetSessionAttrs: "any",
      loadBalanceHosts: false,
      tls: {
        mode: "prefer",
        rootCert: undefined,
        cert: undefined,
        key: undefined,
        keyPassword: undefined,
        crl: undefined,
        serverNameIndication: true,
        negotiation: "postgres",
        minProtocol: "TLSv1.2",
        maxProtocol: undefined,
      },
      keepalive: { enabled: true, idleMs: undefined },
      requireAuth: undefined,
    },
    warnings: [],
  });
});

const SOCKET_5433 = { "/tmp/.s.PGSQL.5433": {} };

/** conninfo, environment or files; then `name address-or-path port` of each host. */
const HOSTS: readonly (readonly [string, Input, readonly string[]])[] = [
  ["", { has: SOCKET_5433 }, ["/var/run/postgresql /var/run/postgresql/.s.PGSQL.5432 5432"]],
  ["port=5433", { has: SOCKET_5433 }, ["/tmp /tmp/.s.PGSQL.5433 5433"]],
  ["port=5433", { has: { ...SOCKET_5433, "/var/run/postgresql/.s.PGSQL.5433": {} } }, [
    "/var/run/postgresql /var/run/postgresql/.s.PGSQL.5433 5433",
  ]],
  ["host=''", { env: { PGHOST: "env" } }, ["/var/run/postgresql /var/run/postgresql/.s.PGSQL.5432 5432"]],
  ["postgresql://", { env: { PGHOST: "env", PGPORT: "7" } }, ["env env 7"]],
  ["host=a", { env: { PGHOST: "env", PGPORT: "7" } }, ["a a 7"]],
  ["host=a", { overrides: { host: "b", port: "8" } }, ["b b 8"]],
  ["host=a port=1", { overrides: { host: "", port: "" } }, ["a a 1"]],
  ["host=/s,@abs,a port=1", {}, ["/s /s/.s.PGSQL.1 1", "@abs @abs/.s.PGSQL.1 1", "a a 1"]],
  ["host=a,b port=1,2", {}, ["a a 1", "b b 2"]],
  ["host=a,b port=,2", {}, ["a a 5432", "b b 2"]],
  ["host=a,b port=','", { env: { PGPORT: "9" } }, ["a a 5432", "b b 5432"]],
  ["postgresql://a,b", { env: { PGPORT: "9" } }, ["a a 5432", "b b 5432"]],
  ["host=a,,b", {}, ["a a 5432", "/var/run/postgresql /var/run/postgresql/.s.PGSQL.5432 5432", "b b 5432"]],
  ["hostaddr=127.0.0.1,::1", {}, ["127.0.0.1 127.0.0.1 5432", "::1 ::1 5432"]],
  ["hostaddr=10.0.0.1 host=a", {}, ["a 10.0.0.1 5432"]],
  ["hostaddr=10.0.0.1,, host=,b,/s", {}, ["10.0.0.1 10.0.0.1 5432", "b b 5432", "/s /s/.s.PGSQL.5432 5432"]],
  ["hostaddr=fe80::1%eth0", {}, ["fe80::1%eth0 fe80::1%eth0 5432"]],
  ["hostaddr='' host=a", {}, ["a a 5432"]],
  ["host=a port=' +77 '", {}, ["a a 77"]],
  ["host=a port=65535", {}, ["a a 65535"]],
];

test("resolveConnection() lists hosts as libpq does", () => {
  for (const [conninfo, input, expected] of HOSTS) {
    const { settings } = resolve(conninfo, input);
    const hosts = settings.hosts.map(({ name, port, target }) =>
      `${name} ${target.kind === "tcp" ? target.address : target.path} ${port}`
    );
    assert.deepEqual(hosts, expected, conninfo);
  }
});

/** Refused, with the message (and hint) to find. */
const REFUSED: readonly (readonly [string, RegExp, Input?])[] = [
  ["host=a,b port=1,2,3", /could not match 3 port numbers to 2 hosts/],
  ["host=a,b,c port=1,2", /could not match 2 port numbers to 3 hosts/],
  ["host=a,b hostaddr=::1", /could not match 2 host names to 1 hostaddr values/],
  ["hostaddr=foo", /could not parse network address/],
  ["host=a port=0", /invalid port number, want 1 to 65535/],
  ["host=a port=65536", /invalid port/],
  ["host=a port=0x10", /invalid port/],
  ["host=a port=1.5", /invalid port/],
  [`host=/${"a".repeat(120)}`, /socket path is too long, want at most 107 bytes/],
  ["sslmode=requier", /^Cannot use sslmode of the connection string: unknown value, want disable, allow/],
  ["sslmode=''", /unknown value/],
  ["", /^Cannot use sslmode of PGSSLMODE: /, { env: { PGSSLMODE: "" } }],
  ["connect_timeout=5s", /connect_timeout .* no integer/],
  ["connect_timeout=2147483648", /no integer/],
  ["connect_timeout=''", /no integer/],
  ["keepalives=yes", /no integer/],
  ["keepalives_count=many", /no integer/],
  ["target_session_attrs=rw", /want any, read-write/],
  ["load_balance_hosts=yes", /want disable, random/],
  ["sslnegotiation=fast", /want postgres, direct/],
  ["sslnegotiation=direct", /weak sslmode "prefer" may not be used with sslnegotiation=direct/],
  ["sslrootcert=system sslmode=require", /weak sslmode "require" may not be used with sslrootcert=system/],
  ["sslrootcert=system", /weak sslmode/, { env: { PGREQUIRESSL: "1" } }],
  ["ssl_min_protocol_version=SSLv3", /want TLSv1, /],
  ["ssl_min_protocol_version=tlsv1.3 ssl_max_protocol_version=TLSv1.2", /invalid SSL protocol version range/],
  ["ssl_max_protocol_version=TLSv1.1", /invalid SSL protocol version range/],
  [
    "host=h sslmode=verify-full",
    /root certificate file "\/home\/u\/.postgresql\/root.crt" does not exist.*system/s,
  ],
  ["host=h sslmode=verify-ca sslrootcert=/r", /root certificate file "\/r" does not exist/],
  ["host=h sslmode=verify-ca", /no home directory/, { homeDirectory: undefined }],
  ["host=h sslcrl=/c", /file "\/c" does not exist/],
  ["gssencmode=require", /GSSAPI is not supported.*sslmode=verify-full/s],
  ["gssencmode=yes", /want disable, prefer, require/],
  ["channel_binding=require", /channel binding is not supported/],
  ["channel_binding=yes", /want disable, prefer, require/],
  ["requirepeer=postgres", /requirepeer/],
  ["sslcrldir=/d", /sslcrl/],
  ["sslcertmode=require", /clientcert/],
  ["sslcertmode=maybe", /want disable, allow, require/],
  ["sslkeylogfile=/k", /never written/],
  ["scram_client_key=x", /SCRAM keys/],
  ["scram_server_key=x", /SCRAM keys/],
  ["oauth_issuer=x", /OAuth/],
  ["oauth_client_id=x", /OAuth/],
  ["oauth_client_secret=x", /OAuth/],
  ["oauth_scope=x", /OAuth/],
  ["replication=database", /logical replication is not supported/],
  ["replication=maybe", /want true/],
  ["min_protocol_version=3.2", /speaks 3.0/],
  ["min_protocol_version=latest", /speaks 3.0/],
  ["max_protocol_version=4", /want 3.0, 3.2, latest/],
  ["require_auth=gss", /no method that walvault supports/],
  ["require_auth=gss,sspi,oauth", /no method/],
  ["require_auth=!none,!password,!md5,!scram-sha-256", /no method/],
  ["require_auth=scram", /unknown method/],
  ["require_auth=md5,", /unknown method/],
  ["require_auth=md5,md5", /more than once/],
  ["require_auth=md5,!gss", /cannot be mixed/],
  ["", /requirepeer of PGREQUIREPEER/, { env: { PGREQUIREPEER: "x" } }],
  ["", /no user is given/, { operatingSystemUser: "" }],
  ["", /invalid connection option "hots"/, { overrides: { hots: "x" } }],
];

test("resolveConnection() refuses what libpq refuses and what it cannot honour", () => {
  for (const [conninfo, message, input] of REFUSED) {
    const error = refusal(conninfo, input);
    assert.match(`${error.message}\n${error.hint ?? ""}`, message, conninfo);
  }
});

test("resolveConnection() warns about what changes nothing here", () => {
  const silent =
    "gssencmode=prefer channel_binding=prefer sslcompression=0 krbsrvname=x gsslib=gssapi gssdelegation=1 " +
    "replication=true keepalives_interval=0 keepalives_count=0 tcp_user_timeout=0 sslcertmode=allow " +
    "min_protocol_version=3.0 max_protocol_version=latest requirepeer='' sslcrldir='' sslkeylogfile=''";
  assert.deepEqual(resolve(silent).warnings, []);
  for (
    const setting of [
      "keepalives_interval=5",
      "keepalives_count=5",
      "tcp_user_timeout=5",
      "sslcompression=1",
      "replication=false",
    ]
  ) {
    const { warnings } = resolve(setting);
    assert.equal(warnings.length, 1, setting);
    assert.ok(warnings[0]!.startsWith(setting.split("=")[0]!), warnings[0]);
  }
});

test("resolveConnection() takes every PG* variable of the table", () => {
  const read = new Set<string>();
  const env = new Proxy({} as Record<string, string | undefined>, {
    get: (_, name) => void read.add(String(name)),
  });
  resolve("", { env });
  for (const keyword of KEYWORD_NAMES) {
    const variable = keywordRow(keyword).environment;
    if (variable !== undefined) assert.ok(read.has(variable), variable);
  }
  for (const variable of ["PGREQUIRESSL", "PGSERVICEFILE", "PGPASSFILE", "PGLOADBALANCEHOSTS"]) {
    assert.ok(read.has(variable), variable);
  }
});

test("resolveConnection() converts what it honours", () => {
  const { settings } = resolve(
    "user=u dbname=d application_name=app options='-c geqo=off' client_encoding=auto connect_timeout=1 " +
      "target_session_attrs=prefer-standby load_balance_hosts=random keepalives=0 keepalives_idle=30 " +
      "require_auth=scram-sha-256,gss,md5 sslsni=0 ssl_max_protocol_version=tlsv1.3",
  );
  assert.equal(settings.user, "u");
  assert.equal(settings.database, "d");
  assert.equal(settings.applicationName, "app");
  assert.equal(settings.options, "-c geqo=off");
  assert.equal(settings.clientEncoding, "UTF8");
  assert.equal(settings.connectTimeoutMs, 1000);
  assert.equal(settings.targetSessionAttrs, "prefer-standby");
  assert.equal(settings.loadBalanceHosts, true);
  assert.deepEqual(settings.keepalive, { enabled: false, idleMs: 30_000 });
  assert.deepEqual(settings.requireAuth, ["md5", "scram-sha-256"]);
  assert.equal(settings.tls.serverNameIndication, false);
});

test("resolveConnection() reads TLS versions, times and names at their edges", () => {
  const min = (conninfo: string) => resolve(conninfo).settings.tls;
  assert.equal(min("ssl_min_protocol_version=''").minProtocol, undefined);
  assert.equal(min("ssl_min_protocol_version=TLSV1.3").minProtocol, "TLSv1.3");
  assert.equal(min("ssl_max_protocol_version=TLSv1.2").maxProtocol, "TLSv1.2");
  assert.equal(resolve("connect_timeout=0").settings.connectTimeoutMs, undefined);
  assert.equal(resolve("connect_timeout=-1").settings.connectTimeoutMs, undefined);
  assert.deepEqual(resolve("require_auth=!md5,!gss").settings.requireAuth, [
    "none",
    "password",
    "scram-sha-256",
  ]);
  const name = (conninfo: string, env = {}) => resolve(conninfo, { env }).settings.applicationName;
  assert.equal(name("fallback_application_name=f"), "f");
  assert.equal(name("fallback_application_name=f", { PGAPPNAME: "e" }), "e");
  assert.equal(name("application_name=''"), undefined);
  assert.equal(resolve("", { env: { PGREQUIRESSL: "1" } }).settings.tls.mode, "require");
  assert.equal(resolve("", { env: { PGREQUIRESSL: "0" } }).settings.tls.mode, "prefer");
  assert.equal(resolve("", { env: { PGREQUIRESSL: "1", PGSSLMODE: "allow" } }).settings.tls.mode, "allow");
  assert.equal(resolve("host=h sslrootcert=system").settings.tls.mode, "verify-full");
  assert.deepEqual(resolve("host=h sslrootcert=system").settings.tls.rootCert, { kind: "system" });
  assert.equal(resolve("sslmode=require sslnegotiation=direct").settings.tls.negotiation, "direct");
});

const DIRECTORY = "/home/u/.postgresql";
const ALL_FILES = {
  [`${DIRECTORY}/root.crt`]: {},
  [`${DIRECTORY}/root.crl`]: {},
  [`${DIRECTORY}/postgresql.crt`]: {},
  [`${DIRECTORY}/postgresql.key`]: {},
};

test("resolveConnection() finds the default TLS files, and no others", () => {
  const { tls } = resolve("host=h sslmode=verify-full sslpassword=x", { has: ALL_FILES }).settings;
  assert.deepEqual(tls.rootCert, { kind: "file", path: `${DIRECTORY}/root.crt` });
  assert.equal(tls.crl, `${DIRECTORY}/root.crl`);
  assert.equal(tls.cert, `${DIRECTORY}/postgresql.crt`);
  assert.equal(tls.key, `${DIRECTORY}/postgresql.key`);
  assert.equal(tls.keyPassword, "x");
  for (const conninfo of ["host=/s sslmode=verify-full", "host=h sslmode=disable"]) {
    const unused = resolve(conninfo, { has: ALL_FILES }).settings.tls;
    assert.deepEqual([unused.rootCert, unused.crl, unused.cert, unused.key], [
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  }
  assert.equal(resolve("host=h sslcertmode=disable", { has: ALL_FILES }).settings.tls.cert, undefined);
  const given = resolve("host=h sslcert=/c sslkey=/k", { has: { "/c": {}, "/k": {} } }).settings.tls;
  assert.deepEqual([given.cert, given.key], ["/c", "/k"]);
  const absent = resolve("host=h sslcert=/c");
  assert.equal(absent.settings.tls.cert, undefined);
  assert.match(absent.warnings.join(), /certificate file "\/c" does not exist/);
  const unverified = resolve("host=h sslmode=require sslrootcert=/r");
  assert.equal(unverified.settings.tls.rootCert, undefined);
  assert.match(unverified.warnings.join(), /root certificate file "\/r" does not exist; .* not verified/);
});

test("resolveConnection() takes a private key only with libpq's permissions", () => {
  const KEYS = [
    [0o100600, 1000, true],
    [0o100400, 1000, true],
    [0o600, 1000, true],
    [0o100640, 1000, false],
    [0o100640, undefined, false],
    [0o100640, 0, true],
    [0o100660, 0, false],
    [0o100644, 0, false],
    [0o100604, 0, false],
    [0o040700, 0, false],
  ] as const;
  for (const [mode, owner, accepted] of KEYS) {
    const key = owner === undefined ? { mode } : { mode, owner };
    const input = { has: { "/c": {}, "/k": key } };
    const label = `${mode.toString(8)} of ${owner}`;
    if (accepted) assert.equal(resolve("host=h sslcert=/c sslkey=/k", input).settings.tls.key, "/k", label);
    else assert.match(refusal("host=h sslcert=/c sslkey=/k", input).message, /private key file "\/k"/, label);
  }
  assert.match(
    refusal("host=h sslcert=/c sslkey=/k", { has: { "/c": {} } }).message,
    /not private key file "\/k"/,
  );
  assert.match(refusal("host=h sslcert=/c sslkey=pkcs11:x", { has: { "/c": {} } }).message, /engines/);
  const bad = { ...ALL_FILES, [`${DIRECTORY}/postgresql.key`]: { mode: 0o100644 } };
  assert.match(resolve("host=h", { has: bad }).warnings.join(), /is not used: private key file/);
  assert.match(refusal("host=h sslmode=require", { has: bad }).message, /group or world access/);
});

const PASSFILE = [
  "# a comment",
  "",
  "a:1:replication:u:one",
  "a:1:*:u:never\r",
  "a:2:postgres:u:never",
  "a:2:*:u:t\\:w\\\\o:ignored\r",
  "localhost:*:*:*:local",
  "/s:*:*:*:socket",
  "\\:\\:1:*:*:*:escaped",
  "::2:*:*:*:bare",
  "empty:*:*:*:",
  "empty:*:*:*:never",
  "*:*:*:us\\:er:any\\",
].join("\n");

test("resolveConnection() looks up each host in the passfile", () => {
  const cases: readonly (readonly [string, readonly (string | undefined)[]])[] = [
    ["host=a port=1 user=u", ["one"]],
    ["host=a,a,a port=1,2,3 user=u", ["one", "t:w\\o", undefined]],
    ["host=a port=2 user=u dbname=postgres", ["t:w\\o"]],
    ["", ["local"]],
    ["host=/tmp", ["local"]],
    ["host=localhost", ["local"]],
    ["host=/s", ["socket"]],
    ["host=::1", ["escaped"]],
    ["host=::2", ["bare"]],
    ["hostaddr=::1", ["escaped"]],
    ["hostaddr=::1 host=a port=1 user=u", ["one"]],
    ["host=empty", [undefined]],
    ["host=elsewhere user=us:er", ["any\\"]],
    ["host=elsewhere user=us:er password=p", ["p"]],
    ["host=elsewhere,a user=us:er password=''", ["any\\", "any\\"]],
  ];
  for (const [conninfo, expected] of cases) {
    const { settings } = resolve(conninfo, { has: { "/home/u/.pgpass": { text: PASSFILE } } });
    assert.deepEqual(settings.hosts.map((host) => host.password), expected, conninfo);
  }
});

test("resolveConnection() ignores an unsafe passfile, and says so", () => {
  const cases = [
    [0o100600, undefined],
    [0o100400, undefined],
    [0o100640, /has group or world access; permissions should be u=rw \(0600\) or less/],
    [0o100601, /has group or world access/],
    [0o040700, /is not a plain file/],
  ] as const;
  for (const [mode, warning] of cases) {
    const { settings, warnings } = resolve("host=a,b passfile=/p", {
      has: { "/p": { text: "*:*:*:*:x", mode } },
    });
    assert.equal(settings.hosts[0]?.password, warning === undefined ? "x" : undefined);
    assert.equal(warnings.length, warning === undefined ? 0 : 1);
    if (warning !== undefined) assert.match(warnings[0]!, warning);
  }
});

test("resolveConnection() reads no passfile when it has a password, and no service file without a service", () => {
  const files = fakeFiles({ "/home/u/.pgpass": { text: "*:*:*:*:x" } });
  assert.equal(resolve("password=p", { files }).settings.hosts[0]?.password, "p");
  assert.equal(resolve("", { files, env: { PGPASSWORD: "e" } }).settings.hosts[0]?.password, "e");
  assert.deepEqual(files.read, []);
  assert.equal(resolve("", { files }).settings.hosts[0]?.password, "x");
  assert.deepEqual(files.read, ["/home/u/.pgpass"]);
  assert.equal(resolve("", { homeDirectory: undefined }).settings.hosts[0]?.password, undefined);
});

const SERVICES = `
# comment
[other]
nonsense here is not our business
[one]
  host=s1
port=11
port=12
user=su
[two]
dbname=ldap.example
`;

test("resolveConnection() takes a service below the connection string and above the environment", () => {
  const has = { "/home/u/.pg_service.conf": { text: SERVICES } };
  const { settings } = resolve("service=one user=cu", { has, env: { PGPORT: "1", PGHOST: "env" } });
  assert.equal(settings.user, "cu");
  assert.deepEqual([settings.hosts[0]?.name, settings.hosts[0]?.port], ["s1", 11]);
  assert.equal(resolve("", { has, env: { PGSERVICE: "two" } }).settings.database, "ldap.example");
  const system = { "/etc/pg/pg_service.conf": { text: "[x]\nhost=sys" }, ...has };
  assert.equal(
    resolve("service=x", { has: system, env: { PGSYSCONFDIR: "/etc/pg" } }).settings.hosts[0]?.name,
    "sys",
  );
  const own = { "/mine": { text: "[x]\nhost=mine" } };
  assert.equal(
    resolve("service=x", { has: own, env: { PGSERVICEFILE: "/mine" } }).settings.hosts[0]?.name,
    "mine",
  );
  assert.equal(resolve("service=x servicefile=/mine", { has: own }).settings.hosts[0]?.name, "mine");
});

test("resolveConnection() refuses a bad service by file and line, not by content", () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ["[y]", /Cannot find service "x": definition of service not found/],
    ["[x]\nhunter2", /"\/mine" line 2: syntax error, want keyword=value/],
    ["[x]\nhost = hunter2", /line 2: invalid connection option/],
    ["[x]\n\nhots=hunter2", /line 3: invalid connection option "hots"/],
    ["[x]\nservice=y", /nested service specifications are not supported/],
    ["[x]\nldap://host/dc=hunter2", /LDAP/],
    ["[x]\nsslmode=hunter2", /^Cannot use sslmode of service file "\/mine" line 2: /],
  ];
  for (const [text, message] of cases) {
    const error = refusal("service=x", { has: { "/mine": { text } }, env: { PGSERVICEFILE: "/mine" } });
    assert.match(error.message, message, text);
    assert.doesNotMatch(`${error.message} ${error.hint}`, /hunter2/);
  }
  assert.match(refusal("service=x", { env: { PGSERVICEFILE: "/mine" } }).message, /service file not found/);
  assert.match(refusal("service=''").message, /definition of service not found/);
});

test("resolveConnection() never throws anything else, nor tells a secret", () => {
  const secret = "hunter2";
  const value = fc.oneof(
    fc.constantFrom("", "1", "a,b", "require", "system", "/s", secret, "::1", "md5", "!gss", "x\0"),
    fc.string(),
  );
  const settings = fc.dictionary(
    fc.constantFrom(...KEYWORD_NAMES.filter((name) => !/service|file/.test(name))),
    value,
  );
  const env = fc.dictionary(
    fc.constantFrom("PGPORT", "PGSSLMODE", "PGHOSTADDR", "PGREQUIREAUTH", "PGPASSWORD"),
    value,
  );
  fc.assert(
    fc.property(settings, env, (overrides, variables) => {
      try {
        const { settings, warnings } = resolve("", {
          overrides: { ...overrides, user: "u", host: "h", password: secret },
          env: { ...variables },
        });
        assert.ok(!`${warnings}`.includes(secret));
        assert.ok(settings.hosts.length > 0);
      } catch (error) {
        if (!(error instanceof ConninfoError)) throw error;
        // The paths of certificates are named, as libpq names them.
        const named = [
          overrides["sslrootcert"],
          overrides["sslcert"],
          overrides["sslkey"],
          overrides["sslcrl"],
        ];
        if (!named.includes(secret)) {
          assert.ok(!`${error.message} ${error.hint}`.includes(secret), error.message);
        }
      }
    }),
    { numRuns: 500 },
  );
});
