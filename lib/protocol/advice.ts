/** What an administrator would do next, by SQLSTATE; the first whose pattern the message has. */
const ADVICE: readonly { readonly sqlState: string; readonly message?: RegExp; readonly next: string }[] = [
  {
    sqlState: "28P01",
    next:
      "give the right password in ~/.pgpass or PGPASSWORD, or set a new one on the server: ALTER ROLE name PASSWORD '…'",
  },
  {
    sqlState: "28000",
    message: /pg_hba\.conf|no entry/i,
    next:
      "allow it in the server's pg_hba.conf: host replication name address scram-sha-256; then SELECT pg_reload_conf()",
  },
  {
    sqlState: "28000",
    message: /role .* does not exist/i,
    next: "make the role on the server: CREATE ROLE name REPLICATION LOGIN PASSWORD '…'",
  },
  {
    sqlState: "28000",
    message: /not permitted to log in/i,
    next: "let the role log in on the server: ALTER ROLE name LOGIN",
  },
  {
    sqlState: "28000",
    message: /^(Peer|Ident|certificate) authentication failed/,
    next:
      "name the role after this user or certificate, map them in the server's pg_ident.conf, or ask for a password in pg_hba.conf",
  },
  { sqlState: "42501", next: "give the role the right on the server: ALTER ROLE name REPLICATION" },
  {
    sqlState: "53300",
    message: /max_wal_senders/,
    next: "on the server set wal_level = replica and a higher max_wal_senders, and restart it",
  },
  { sqlState: "55006", next: "stop the other receiver, or give this one a slot of its own" },
  {
    sqlState: "55000",
    message: /logical replication slot/i,
    next: "choose another slot name: this slot is a logical one, want a physical one",
  },
  {
    sqlState: "55000",
    message: /no longer .*slot/i,
    next:
      "the slot has lost its WAL: drop it with --drop-slot, make it again with --create-slot, and fill the gap from the server's own archive",
  },
  { sqlState: "42704", message: /slot/i, next: "make the slot with --create-slot" },
  {
    sqlState: "42704",
    message: /role/i,
    next: "make the role on the server, or correct user= in the connection string",
  },
];

/** The next command for what a server refuses, where there is one. */
export function adviceFor(said: { readonly sqlState: string; readonly message: string }): string | undefined {
  return ADVICE.find((entry) =>
    entry.sqlState === said.sqlState && (entry.message?.test(said.message) ?? true)
  )
    ?.next;
}

/** What to look at when a server has fallen silent: nobody says why, and waiting mends only some of it. */
export const SILENCE_ADVICE =
  "look whether the server hangs, or its network: other clients would wait too; it is tried again by itself";
