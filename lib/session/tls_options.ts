import { createPrivateKey } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { isIP } from "node:net";
import { platform, versions } from "node:process";
import tls from "node:tls";
import type { Host, TlsSettings } from "../conninfo/settings.ts";
import { ConnectionError } from "../protocol/errors.ts";

/**
 * What `tls.connect()` needs to meet this host as the settings want it; reads the certificate files.
 *
 * As in libpq, a root certificate that is there is used in every mode, so `require` then means `verify-ca`.
 * @throws {ConnectionError} of kind `tls` when a file is missing or not usable.
 * @see initialize_SSL(), src/interfaces/libpq/fe-secure-openssl.c
 */
export async function tlsOptions(host: Host, settings: TlsSettings): Promise<tls.ConnectionOptions> {
  const verifies = settings.mode === "verify-ca" || settings.mode === "verify-full";
  if (verifies && settings.rootCert === undefined) {
    throw new ConnectionError(
      "tls",
      `Cannot verify ${host.name}: no root certificate, want one for ${settings.mode}`,
      {
        hint: "Give sslrootcert=FILE, or sslrootcert=system to trust the operating system's authorities",
      },
    );
  }
  // Deno 2.9 takes the option and does nothing: a revoked certificate would pass for a good one.
  if (settings.crl !== undefined && settings.rootCert !== undefined && versions["deno"] !== undefined) {
    throw new ConnectionError(
      "tls",
      `Cannot verify ${host.name}: Deno's TLS does not look at revocation lists`,
      {
        hint: "Run walvault with Bun, or leave sslcrl out",
      },
    );
  }
  const options: tls.ConnectionOptions = {
    rejectUnauthorized: settings.rootCert !== undefined,
    // The name as given counts, also when it is an IP address: the runtimes would compare an IP address's
    // certificate with "localhost" or not at all.
    checkServerIdentity: (_name, certificate) =>
      settings.mode === "verify-full" ? tls.checkServerIdentity(host.name, certificate) : undefined,
  };
  if (settings.serverNameIndication && isIP(host.name) === 0) options.servername = host.name;
  if (settings.rootCert?.kind === "file") {
    options.ca = await readPem(settings.rootCert.path, "root certificate");
  }
  if (settings.crl !== undefined && options.rejectUnauthorized) {
    options.crl = await readPem(settings.crl, "revocation list");
  }
  if (settings.minProtocol !== undefined) options.minVersion = settings.minProtocol;
  if (settings.maxProtocol !== undefined) options.maxVersion = settings.maxProtocol;
  if (settings.negotiation === "direct") options.ALPNProtocols = ["postgresql"];
  if (settings.cert !== undefined && settings.key !== undefined) {
    options.cert = await readPem(settings.cert, "client certificate");
    options.key = await readKey(settings.key, settings.keyPassword);
  }
  return options;
}

async function readPem(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new ConnectionError("tls", `Cannot read ${what} ${JSON.stringify(path)}`, { cause });
  }
}

/** The private key, decrypted: not every runtime's TLS takes an encrypted one. */
async function readKey(path: string, password: string | undefined): Promise<string> {
  const pem = await readPem(path, "client key");
  const { mode, uid } = await stat(path);
  // A key of root's may be readable for its group, as libpq has it for shared system keys.
  const tooOpen = uid === 0 ? 0o037 : 0o077;
  if (platform !== "win32" && (mode & tooOpen) !== 0) {
    throw new ConnectionError(
      "tls",
      `Cannot use client key ${JSON.stringify(path)}: mode ${(mode & 0o777).toString(8)}, want 600`,
      { hint: `chmod 0600 ${path}` },
    );
  }
  if (!pem.includes("ENCRYPTED")) return pem;
  try {
    const key = createPrivateKey({ key: pem, passphrase: password ?? "" });
    return key.export({ type: "pkcs8", format: "pem" }).toString();
  } catch (cause) {
    throw new ConnectionError("tls", `Cannot decrypt client key ${JSON.stringify(path)}`, {
      cause,
      hint: "Check sslpassword",
    });
  }
}
