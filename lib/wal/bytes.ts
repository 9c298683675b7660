/** The first index from `start` up to, not including, `end` at which two pieces of memory differ; both go that far. */
export function firstDifferentByte(
  a: Uint8Array,
  b: Uint8Array,
  { start, end }: { readonly start: number; readonly end: number },
): number | undefined {
  for (let index = start; index < end; index++) if (a[index] !== b[index]) return index;
  return undefined;
}

/** Whether two pieces of memory hold the same. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
