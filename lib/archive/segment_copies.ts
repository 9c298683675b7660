import { type CompressionFormat, FORMAT_OF_FORM } from "./compression_format.ts";
import { inProgressPath, SEGMENT_FORMS } from "./layout.ts";

/** A file that may hold a complete segment, below the root of the directory that it is in. */
export interface SegmentCopy {
  readonly path: string;
  readonly format: CompressionFormat | undefined;
}

/** The names in a directory, and in its `inprogress/` if it has one. */
export interface CopyNames {
  readonly root: ReadonlySet<string>;
  readonly inProgress: readonly string[];
}

/**
 * Where copies of the segment `name` may be, the best first: under its own name in any form, then what is kept or grows in
 * `inprogress/`.
 */
export function copiesOf(name: string, { root, inProgress }: CopyNames): readonly SegmentCopy[] {
  const own = SEGMENT_FORMS.flatMap((form) =>
    root.has(name + form)
      ? [{ path: name + form, format: form === "" ? undefined : FORMAT_OF_FORM[form] }]
      : []
  );
  const unfinished = inProgress
    .filter((entry) =>
      entry === name || (entry.startsWith(`${name}.saved-`) && /^[1-9][0-9]{0,8}$/.test(entry.slice(31)))
    )
    .sort()
    .map((entry) => ({ path: inProgressPath(entry), format: undefined }));
  return [...own, ...unfinished];
}
