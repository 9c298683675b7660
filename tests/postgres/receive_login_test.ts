import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import { type Cluster, startCluster } from "./cluster.ts";
import { ArchiveFiles, compareWithServer, MIB, runReceiver, WorkDirectory } from "./receiver.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const PASSWORD = "Pa55 w'or\\d:%41";
const HBA = [
  "local replication postgres trust",
  "hostssl replication secure 127.0.0.1/32 scram-sha-256",
  "host all rep 127.0.0.1/32 scram-sha-256",
  "host replication rep 127.0.0.1/32 scram-sha-256",
  "host replication rep ::1/128 scram-sha-256",
];

const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === "::1")
);

function openssl(directory: string, words: readonly string[]): void {
  const run = spawnSync("openssl", [...words], { cwd: directory, encoding: "utf8" });
  assert.equal(run.status, 0, run.error?.message ?? run.stderr);
}

/** A CA, and a key with a certificate of that CA for `localhost`. */
function makeCertificates(directory: string): void {
  const key = ["-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "2"];
  openssl(directory, [
    "req",
    "-x509",
    ...key,
    "-subj",
    "/CN=walvault test CA",
    "-keyout",
    "ca.key",
    "-out",
    "ca.crt",
  ]);
  openssl(directory, [
    "req",
    ...key.slice(0, 4),
    "-subj",
    "/CN=localhost",
    "-keyout",
    "server.key",
    "-out",
    "server.csr",
  ]);
  fs.writeFileSync(`${directory}/extensions`, "subjectAltName=DNS:localhost\n");
  openssl(directory, [
    ...["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"],
    ...["-days", "2", "-sha256", "-extfile", "extensions", "-out", "server.crt"],
  ]);
}

async function makeRoles(cluster: Cluster): Promise<void> {
  const quoted = `'${PASSWORD.replaceAll("'", "''")}'`;
  await cluster.sql(
    "SET password_encryption = 'scram-sha-256'; " +
      `CREATE ROLE rep LOGIN REPLICATION PASSWORD ${quoted}; CREATE ROLE secure LOGIN REPLICATION PASSWORD ${quoted}`,
  );
}

const canMakeCertificates = spawnSync("openssl", ["version"]).status === 0;
const title = "receive logs in: SCRAM, password file, TLS, Unix socket, IPv6" +
  (hasIpv6 ? "" : " (IPv6 skipped: this machine has no ::1)");

test(title, { timeout, skip: !canMakeCertificates }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({
    segmentBytes,
    hba: HBA,
    settings: {
      password_encryption: "scram-sha-256",
      ...(hasIpv6 ? { listen_addresses: "127.0.0.1,::1" } : {}),
    },
  });
  await makeRoles(cluster);
  makeCertificates(directory.path);
  cluster.writeDataFile("server.crt", fs.readFileSync(directory.file("server.crt")));
  cluster.writeDataFile("server.key", fs.readFileSync(directory.file("server.key")));
  await cluster.configure({ ssl: "on" });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  const password = (value: string) => `'${value.replace(/['\\]/g, "\\$&")}'`;

  /** Receives some WAL with this login, and tells nobody the password. */
  const receive = async (connection: string, env: Readonly<Record<string, string>> = {}) => {
    await cluster.sql("SELECT pg_logical_emit_message(false, 'walvault', 'x')");
    const end = await cluster.value("SELECT pg_current_wal_insert_lsn()");
    await cluster.sql("SELECT pg_switch_wal()");
    const options = ["--slot=walvault", "--create-slot", `--endpos=${end}`, "--no-loop"];
    const receiver = await runReceiver({ connection, archive: archive.directory, options, env });
    for (const text of [PASSWORD, "Pa55", "wrong-s3cret"]) {
      assert.ok(!(receiver.stdout + receiver.stderr).includes(text), "the password is in the output");
    }
    return { code: await receiver.ended(), stderr: receiver.stderr, receiver };
  };
  const works = async (connection: string, env: Readonly<Record<string, string>> = {}) => {
    const { code, stderr, receiver } = await receive(connection, env);
    assert.equal(code, 0, stderr);
    assert.equal(receiver.linesOf("streaming").length, 1, stderr);
  };
  const fails = async (connection: string, message: RegExp, env: Readonly<Record<string, string>> = {}) => {
    const { code, stderr } = await receive(connection, env);
    assert.equal(code, 3, stderr);
    assert.match(stderr, message);
  };

  const tcp = `host=127.0.0.1 port=${cluster.port} user=rep`;
  await works(tcp, { PGPASSWORD: PASSWORD });
  const passfile = directory.file("passfile");
  const escaped = PASSWORD.replace(/[:\\]/g, "\\$&");
  fs.writeFileSync(passfile, `127.0.0.1:*:replication:rep:${escaped}\n127.0.0.1:*:*:rep:wrong-s3cret\n`, {
    mode: 0o600,
  });
  await works(`${tcp} passfile=${passfile} sslmode=disable`);
  await fails(`${tcp} password=wrong-s3cret`, /28P01/);
  await fails(tcp, /password/i);

  const ca = directory.file("ca.crt");
  const secure = `port=${cluster.port} user=secure password=${password(PASSWORD)} sslrootcert=${ca}`;
  await works(`host=localhost hostaddr=127.0.0.1 ${secure} sslmode=verify-full`);
  await works(`host=127.0.0.1 ${secure} sslmode=verify-ca`);
  await fails(`host=127.0.0.1 ${secure} sslmode=verify-full`, /certificate|127\.0\.0\.1/i);
  await fails(`host=localhost hostaddr=127.0.0.1 ${secure} sslmode=disable`, /28000|pg_hba/);

  await works(`host=${cluster.socketDirectory} port=${cluster.port} user=postgres`);
  if (hasIpv6) await works(`host=::1 port=${cluster.port} user=rep`, { PGPASSWORD: PASSWORD });
  compareWithServer(archive, cluster);
});
