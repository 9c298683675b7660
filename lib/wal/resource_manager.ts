/**
 * PostgreSQL's own resource managers, by the number that records carry; the same in versions 10 to 18.
 *
 * @see src/include/access/rmgrlist.h
 */
const NAMES = [
  "XLOG",
  "Transaction",
  "Storage",
  "CLOG",
  "Database",
  "Tablespace",
  "MultiXact",
  "RelMap",
  "Standby",
  "Heap2",
  "Heap",
  "Btree",
  "Hash",
  "Gin",
  "Gist",
  "Sequence",
  "SPGist",
  "BRIN",
  "CommitTs",
  "ReplicationOrigin",
  "Generic",
  "LogicalMessage",
] as const;

/** The resource manager's name as `pg_waldump` writes it: "Heap"; "custom128" for one that an extension brings. */
export function resourceManagerName(id: number): string {
  return NAMES[id] ?? `custom${String(id).padStart(3, "0")}`;
}
