import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { Host, TlsSettings } from "../../lib/conninfo/settings.ts";
import { ConnectionError, ServerError } from "../../lib/protocol/errors.ts";
import { connect } from "../../lib/session/connect.ts";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { NO_TLS, settingsFor, SILENT, SLOW, tcpHost } from "./support.ts";

const directory = fs.mkdtempSync(join(tmpdir(), "wv-tls-"));
const file = (name: string) => join(directory, name);
const pem = (name: string) => ({ kind: "file", path: file(name) }) as const;

function openssl(...options: readonly string[]): void {
  const run = spawnSync("openssl", options, { cwd: directory, encoding: "utf8" });
  if (run.status !== 0) throw new Error(`Cannot run openssl ${options[0]}: ${run.stderr}`);
}

/** A key and a certificate of the authority's for these names. */
function issue(name: string, options: { readonly subject: string; readonly names?: string }): void {
  openssl(
    "req",
    "-new",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
    "-keyout",
    `${name}.key`,
    "-subj",
    options.subject,
    "-out",
    `${name}.csr`,
  );
  fs.writeFileSync(
    file(`${name}.ext`),
    options.names === undefined ? "" : `subjectAltName=${options.names}\n`,
  );
  openssl(
    "ca",
    "-batch",
    "-config",
    "ca.conf",
    "-in",
    `${name}.csr`,
    "-out",
    `${name}.crt`,
    "-extfile",
    `${name}.ext`,
    "-notext",
  );
}

function makeAuthority(): void {
  fs.writeFileSync(file("index.txt"), "");
  fs.writeFileSync(file("serial"), "01\n");
  fs.writeFileSync(
    file("ca.conf"),
    "[ca]\ndefault_ca=d\n[d]\ndir=.\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ncertificate=ca.crt\n" +
      "private_key=ca.key\ndefault_md=sha256\ndefault_days=30\ndefault_crl_days=30\npolicy=p\nunique_subject=no\n" +
      "[p]\ncommonName=supplied\n",
  );
  for (const name of ["ca", "other"]) {
    openssl(
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.crt`,
      "-subj",
      `/CN=test ${name}`,
      "-days",
      "30",
      "-addext",
      "keyUsage=critical,keyCertSign,cRLSign",
    );
  }
  openssl("ca", "-config", "ca.conf", "-gencrl", "-out", "empty.crl");
}

describe("TLS", SLOW, () => {
  let cluster: Cluster;

  before(async () => {
    makeAuthority();
    issue("server", { subject: "/CN=localhost", names: "DNS:localhost" });
    issue("addresses", { subject: "/CN=server", names: "IP:127.0.0.1,IP:::1" });
    issue("certuser", { subject: "/CN=certuser" });
    openssl("ec", "-in", "certuser.key", "-aes256", "-passout", "pass:sesame", "-out", "locked.key");
    fs.chmodSync(file("locked.key"), 0o600);
    cluster = await startCluster({
      hba: [
        "hostnossl all plainonly all trust",
        "hostssl all tlsonly all trust",
        "hostssl all certuser all cert",
        "host all postgres all trust",
        "hostnossl replication plainonly all trust",
        "hostssl replication tlsonly all trust",
        "hostssl replication certuser all cert",
        "host replication postgres all trust",
        "host replication scram all scram-sha-256",
      ],
      settings: { listen_addresses: "127.0.0.1,::1" },
    });
    await cluster.sql(
      "CREATE ROLE plainonly LOGIN REPLICATION; CREATE ROLE tlsonly LOGIN REPLICATION; " +
        "CREATE ROLE certuser LOGIN REPLICATION; CREATE ROLE scram LOGIN REPLICATION",
    );
    for (const name of ["server", "addresses"]) useCertificate(name);
    cluster.writeDataFile("ca.crt", fs.readFileSync(file("ca.crt")));
  }, SLOW);

  after(async () => {
    await cluster.destroy();
    fs.rmSync(directory, { recursive: true });
  }, SLOW);

  function useCertificate(name: string): void {
    cluster.writeDataFile(`${name}.crt`, fs.readFileSync(file(`${name}.crt`)));
    cluster.writeDataFile(`${name}.key`, fs.readFileSync(file(`${name}.key`)));
  }

  const serve = (name: string, changes: Record<string, string> = {}) =>
    cluster.configure({
      ssl: "on",
      ssl_ca_file: "ca.crt",
      ssl_cert_file: `${name}.crt`,
      ssl_key_file: `${name}.key`,
      ...changes,
    });

  /** Whether the connection is encrypted, as the server sees it; "Kind: text" when there is none. */
  async function tryTls(
    tls: Partial<TlsSettings>,
    { host, user = "postgres" }: { readonly host?: Host; readonly user?: string } = {},
  ): Promise<string> {
    try {
      const settings = settingsFor([
        host ?? tcpHost(cluster.port, { name: "localhost", address: "127.0.0.1" }),
      ], {
        tls: { ...NO_TLS, ...tls },
        user,
      });
      const source = await connect(settings, { log: SILENT });
      const ssl = await cluster.value(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE backend_type = 'walsender'",
      );
      await source.close();
      return ssl === "true" || ssl === "t" ? "tls" : "plain";
    } catch (error) {
      if (error instanceof ConnectionError) return `${error.kind}: ${error.message}`;
      if (error instanceof ServerError) return `${error.sqlState}: ${error.message}`;
      throw error;
    }
  }

  const ip = (address: string) => tcpHost(cluster.port, { name: address });

  it("a server without TLS: disable, allow and prefer connect, the others refuse", SLOW, async () => {
    assert.equal(await tryTls({ mode: "disable" }), "plain");
    assert.equal(await tryTls({ mode: "allow" }), "plain");
    assert.equal(await tryTls({ mode: "prefer" }), "plain");
    assert.match(await tryTls({ mode: "require" }), /^tls: .*localhost:\d+: the server does not offer TLS/);
    assert.match(await tryTls({ mode: "prefer" }, { user: "tlsonly" }), /^28000: .*no pg_hba\.conf entry/);
    assert.match(await tryTls({ mode: "allow" }, { user: "tlsonly" }), /^28000: .*no pg_hba\.conf entry/);
    assert.match(
      await tryTls({ mode: "prefer" }, { user: "scram" }),
      /^auth: .*asks for a password, and none is given/,
    );
    assert.match(await tryTls({ mode: "verify-full", rootCert: pem("ca.crt") }), /does not offer TLS/);
  });

  it("a server with TLS: each mode does what libpq's does", SLOW, async () => {
    await serve("server");
    assert.equal(await tryTls({ mode: "disable" }), "plain");
    assert.equal(await tryTls({ mode: "allow" }), "plain");
    assert.equal(await tryTls({ mode: "prefer" }), "tls");
    assert.equal(await tryTls({ mode: "require" }), "tls");
    assert.equal(await tryTls({ mode: "require", rootCert: pem("ca.crt") }), "tls");
    assert.equal(await tryTls({ mode: "verify-ca", rootCert: pem("ca.crt") }), "tls");
    assert.equal(await tryTls({ mode: "verify-full", rootCert: pem("ca.crt") }), "tls");
    assert.equal(
      await tryTls({ mode: "verify-full", rootCert: pem("ca.crt"), serverNameIndication: false }),
      "tls",
    );
  });

  it("another authority is refused in every mode that is given one", SLOW, async () => {
    for (const mode of ["require", "verify-ca", "verify-full"] as const) {
      assert.match(
        await tryTls({ mode, rootCert: pem("other.crt") }),
        /^tls: Cannot start TLS with localhost:/,
      );
    }
    assert.equal(await tryTls({ mode: "prefer", rootCert: pem("other.crt") }), "plain");
    assert.match(
      await tryTls({ mode: "verify-full", rootCert: { kind: "system" } }),
      /^tls: Cannot start TLS/,
    );
    assert.match(await tryTls({ mode: "verify-full" }), /^tls: .*no root certificate/);
    assert.match(
      await tryTls({ mode: "verify-full", rootCert: pem("none.crt") }),
      /^tls: Cannot read root certificate/,
    );
  });

  it("verify-full wants the name in the certificate, verify-ca does not", SLOW, async () => {
    const verifyFull = { mode: "verify-full", rootCert: pem("ca.crt") } as const;
    const named = tcpHost(cluster.port, { name: "db.example.com", address: "127.0.0.1" });
    assert.match(await tryTls(verifyFull, { host: named }), /^tls: Cannot start TLS with db\.example\.com:/);
    assert.equal(await tryTls({ mode: "verify-ca", rootCert: pem("ca.crt") }, { host: named }), "tls");
    // The certificate is for localhost; the name given is an address.
    for (const address of ["127.0.0.1", "::1"]) {
      assert.match(await tryTls(verifyFull, { host: ip(address) }), /^tls: Cannot start TLS/, address);
      assert.equal(
        await tryTls({ mode: "verify-ca", rootCert: pem("ca.crt") }, { host: ip(address) }),
        "tls",
      );
    }
    await serve("addresses");
    for (const address of ["127.0.0.1", "::1", "0:0::1"]) {
      assert.equal(await tryTls(verifyFull, { host: ip(address) }), "tls", address);
    }
    assert.match(await tryTls(verifyFull), /^tls: Cannot start TLS with localhost:/);
    await serve("server");
  });

  it("prefer and allow try the other way when pg_hba.conf refuses the first", SLOW, async () => {
    assert.equal(await tryTls({ mode: "prefer" }, { user: "plainonly" }), "plain");
    assert.equal(await tryTls({ mode: "allow" }, { user: "tlsonly" }), "tls");
    assert.match(await tryTls({ mode: "require" }, { user: "plainonly" }), /^28000: /);
    assert.match(await tryTls({ mode: "disable" }, { user: "tlsonly" }), /^28000: .*no pg_hba\.conf entry/);
  });

  it("a client certificate logs in, also with an encrypted key", SLOW, async () => {
    const cert = { mode: "verify-full", rootCert: pem("ca.crt"), cert: file("certuser.crt") } as const;
    const user = "certuser";
    assert.equal(await tryTls({ ...cert, key: file("certuser.key") }, { user }), "tls");
    assert.equal(await tryTls({ ...cert, key: file("locked.key"), keyPassword: "sesame" }, { user }), "tls");
    assert.match(
      await tryTls({ ...cert, key: file("locked.key") }, { user }),
      /^tls: Cannot decrypt client key/,
    );
    assert.match(
      await tryTls({ ...cert, key: file("locked.key"), keyPassword: "x" }, { user }),
      /^tls: Cannot decrypt client key "[^"]+"$/,
    );
    assert.match(
      await tryTls({ mode: "require" }, { user }),
      /^28000: .*requires a valid client certificate/,
    );
    fs.chmodSync(file("certuser.key"), 0o644);
    assert.match(
      await tryTls({ ...cert, key: file("certuser.key") }, { user }),
      /^tls: .*mode 644, want 600/,
    );
    fs.chmodSync(file("certuser.key"), 0o600);
  });

  it("a revoked certificate is refused, or revocation lists are", SLOW, async () => {
    const tls = { mode: "verify-full", rootCert: pem("ca.crt") } as const;
    const empty = await tryTls({ ...tls, crl: file("empty.crl") });
    issue("revoked", { subject: "/CN=localhost", names: "DNS:localhost" });
    openssl("ca", "-config", "ca.conf", "-revoke", "revoked.crt");
    openssl("ca", "-config", "ca.conf", "-gencrl", "-out", "full.crl");
    useCertificate("revoked");
    await serve("revoked");
    assert.equal(await tryTls(tls), "tls");
    assert.match(await tryTls({ ...tls, crl: file("full.crl") }), /^tls: /);
    assert.match(empty, /^tls$|^tls: .*revocation/);
    await serve("server");
  });

  it("the version of TLS is held to its limits", SLOW, async () => {
    await serve("server", { ssl_max_protocol_version: "TLSv1.2" });
    assert.equal(await tryTls({ mode: "require", maxProtocol: "TLSv1.2" }), "tls");
    assert.match(await tryTls({ mode: "require", minProtocol: "TLSv1.3" }), /^tls: /);
    await serve("server", { ssl_min_protocol_version: "TLSv1.3", ssl_max_protocol_version: "" });
    assert.equal(await tryTls({ mode: "require", minProtocol: "TLSv1.3" }), "tls");
    assert.match(await tryTls({ mode: "require", maxProtocol: "TLSv1.2" }), /^tls: /);
    await serve("server", { ssl_min_protocol_version: "TLSv1.2" });
  });

  it("direct TLS needs no SSLRequest (PostgreSQL 17 and up)", SLOW, async () => {
    const got = await tryTls({ mode: "require", negotiation: "direct" });
    if (cluster.major >= 17) assert.equal(got, "tls");
    else assert.match(got, /^tls: Cannot start TLS/);
  });
});
