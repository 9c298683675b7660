/** One deliberate defect of the program. */
export interface Mutation {
  readonly title: string;
  readonly file: string;
  /** Each must stand in the file exactly once. */
  readonly changes: readonly (readonly [from: string, to: string])[];
  /** Which simulation has to notice; that of receiving without it. */
  readonly by?: "push";
}

const WRITER = "lib/archive/segment_writer.ts";
const ACCEPT = "lib/archive/accept_segment.ts";
const WRITE = "lib/archive/write_brought.ts";
const SINK = "lib/archive/leg_sink.ts";
const LEDGER = "lib/archive/gap_ledger_file.ts";
const COMPRESS = "lib/archive/compress.ts";

/** What the simulation must notice within the fast tier's seeds. */
export const MUTATIONS: readonly Mutation[] = [
  {
    title: "acknowledge before the sync",
    file: WRITER,
    changes: [[
      "      await segment.file.sync();\n    } catch",
      "      void segment.file.sync();\n    } catch",
    ]],
  },
  {
    title: "flush = write",
    file: SINK,
    changes: [["    return this.writer.flushLsn;", "    return this.writer.writeLsn;"]],
  },
  {
    title: "flush = received",
    file: SINK,
    changes: [["    return this.writer.flushLsn;", "    return this.#receivedLsn;"]],
  },
  {
    title: "write = received",
    file: "lib/receiver/leg.ts",
    changes: [["const { writeLsn, flushLsn } = sink;", "const { receivedLsn: writeLsn, flushLsn } = sink;"]],
  },
  {
    title: "no sync of inprogress/",
    file: WRITER,
    changes: [["    if (segment.nameSynced) return;", "    if (segment !== undefined) return;"]],
  },
  {
    title: "the saved copy goes before the new name is synced",
    file: WRITER,
    changes: [["    if (segment.saved.length > 0) await this.#syncName(segment);", ""]],
  },
  {
    title: "no sync of the directory at publish",
    file: WRITER,
    changes: [[
      '    await this.disk.syncDirectory(".");\n    // It may',
      "    // It may",
    ]],
  },
  {
    title: "publish before the sync of the data",
    file: WRITER,
    changes: [[
      "    if (segment === undefined) return;\n    await this.#syncFile(segment);\n    await this.#check(segment);\n    // The",
      "    if (segment === undefined) return;\n    await this.#check(segment);\n    // The",
    ]],
  },
  {
    title: "the name in inprogress/ goes before the published one is synced",
    file: WRITER,
    changes: [[
      '    await this.disk.syncDirectory(".");\n    // It may',
      '    await removeName(this.disk, growing);\n    await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);\n    await this.disk.syncDirectory(".");\n    // It may',
    ]],
  },
  {
    title: "what an earlier run received is thrown away",
    file: WRITER,
    changes: [["    if (left.validEndLsn === undefined) {", "    if (left !== undefined) {"]],
  },
  {
    title: "the safe name is not synced before the old one goes",
    file: WRITER,
    changes: [[
      "      // The safe name is synced before the old one goes.\n      await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);\n",
      "",
    ]],
  },
  {
    title: "saved copies go at once",
    file: WRITER,
    changes: [["saved.writtenBytes <= syncedBytes", "saved.writtenBytes >= 0 || syncedBytes < 0"]],
  },
  {
    title: "a repeated copy goes after a mere sync of the other",
    file: WRITER,
    changes: [[
      "const sure = longer === undefined ? undefined : await this.#writeAnew(longer, name);",
      "const sure = longer;\n      if (longer !== undefined) {\n        await withFile(this.disk, longer.path, (file) => file.sync());\n        await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);\n        await removeName(this.disk, copy.path);\n        continue;\n      }",
    ]],
  },
  {
    title: "a failed sync is tried again",
    file: WRITER,
    changes: [[
      "      await segment.file.sync();\n    } catch (error) {\n      this.#spent = true;\n      throw error;",
      "      await segment.file.sync();\n    } catch (error) {\n      await segment.file.sync();\n      void error;",
    ]],
  },
  {
    title: "a full disk makes the same bytes come twice",
    file: SINK,
    changes: [[
      "      const taken = Number(bytesBetween({ startLsn, endLsn: this.writer.writeLsn }));",
      '      const taken = this.writer.flushLsn === this.writer.writeLsn || then === "leave"\n        ? Number(bytesBetween({ startLsn, endLsn: this.writer.writeLsn }))\n        : 0;',
    ]],
  },
  {
    title: "few bytes far behind the server never wake the writer",
    file: SINK,
    changes: [["wakeDue(state) || (this.#sleeps && state.bufferedBytes > 0)", "wakeDue(state)"]],
  },
  {
    title: "directories are believed without a sync",
    file: "lib/archive/archive.ts",
    changes: [
      ['    await this.disk.syncDirectory(".");\n    // A process', "    // A process"],
      [
        '      if (classifyOther(name).kind === "temporary") await removeName(this.disk, name);\n    }\n    await this.disk.syncDirectory(".");',
        "    }",
      ],
    ],
  },
  {
    title: "receiving begins one segment later",
    file: "lib/receiver/start.ts",
    changes: [[
      "  const missing = firstMissingSegment(facts);",
      "  const first = firstMissingSegment(facts);\n  const missing = first === undefined ? undefined : first + 1n as typeof first;",
    ]],
  },
  {
    title: "unfinished segments do not count",
    file: "lib/wal/lineage.ts",
    changes: [[
      "const begun = unfinished.filter(isHeld);",
      "const begun = unfinished.filter(() => size < 0);",
    ]],
  },
  {
    title: "the slot's position wins over the archive's end",
    file: "lib/receiver/start.ts",
    changes: [[
      "  if (missing !== undefined) {",
      "  if (missing !== undefined && slot?.restartLsn === undefined) {",
    ]],
  },
  {
    title: "histories are not stored",
    file: "lib/receiver/preparation.ts",
    changes: [["await this.#storeHistory(timeline, bytes);\n", "{}\n"]],
  },
  {
    title: "histories are stored without waiting",
    file: "lib/receiver/preparation.ts",
    changes: [[
      "await this.#storeHistory(timeline, bytes);\n",
      "void this.#storeHistory(timeline, bytes).catch(() => {});\n",
    ]],
  },
  {
    title: "a small file is published without a sync",
    file: "lib/archive/durable.ts",
    changes: [[
      "    await handle.write(file.bytes, 0);\n    await handle.sync();",
      "    await handle.write(file.bytes, 0);",
    ]],
  },
  {
    title: "a small file's name is not synced",
    file: "lib/archive/durable.ts",
    changes: [[
      '  await disk.syncDirectory(".");\n  await removeName(disk, temporary);',
      "  await removeName(disk, temporary);",
    ]],
  },
  {
    title: "what is received last is given up at the end of a leg",
    file: SINK,
    changes: [[
      "    this.#finishing = true;\n    this.#wake?.();\n    await this.#done;",
      "    this.#finishing = true;\n    this.#abandoned = true;\n    this.#receivedLsn = this.writer.flushLsn;\n    this.#wake?.();\n    await this.#done;",
    ]],
  },
  {
    title: "a requested reply is never sent, nor one by time",
    file: "lib/receiver/progress.ts",
    changes: [[
      "  if (!waited && !progress.replyOwed && progress.flushLsn === progress.reportedFlushLsn) return undefined;",
      "  void waited;\n  if (progress.flushLsn === progress.reportedFlushLsn) return undefined;",
    ]],
  },
  {
    title: "silence is never judged",
    file: "lib/receiver/leg.ts",
    changes: [["    this.#judgeSilence(nowMs);\n", ""]],
  },
  {
    title: "zeros are laid over the last page of the data",
    file: WRITER,
    changes: [[
      "Math.ceil(writtenBytes / PAGE_BYTES) * PAGE_BYTES)",
      "Math.floor(writtenBytes / PAGE_BYTES) * PAGE_BYTES)",
    ]],
  },
  {
    title: "reading never goes on once there was too little room",
    file: "lib/archive/minimum_free.ts",
    changes: [["wasShort ? resumeBytes : minimumBytes", "wasShort ? Infinity : minimumBytes"]],
  },
  {
    title: "nobody tells that there is room again",
    file: SINK,
    changes: [["    if (before !== undefined || now !== undefined) this", "    if (now !== undefined) this"]],
  },
  {
    title: "a gap's line is not synced",
    file: LEDGER,
    changes: [["    await file.sync();\n", ""]],
  },
  {
    title: "a gap's line is not waited for",
    file: "lib/receiver/gap_passing.ts",
    changes: [
      ["      await archive.recordGap({", "      void archive.recordGap({"],
      [
        "        answer: passage.words,\n      });",
        "        answer: passage.words,\n      }).catch(() => {});",
      ],
    ],
  },
  {
    title: "a gap's line that an earlier process wrote is believed",
    file: "lib/receiver/gap_passing.ts",
    changes: [["      await this.options.archive.confirmGap(run);\n", ""]],
  },
  {
    title: "a gap is recorded on a timeout",
    file: "lib/receiver/first_available.ts",
    changes: [[
      "    if (began || !(error instanceof ServerError) || error.sqlState !== WAL_REMOVED) throw error;\n" +
      "    return error.serverMessage;",
      "    return (error as Error).message + (error instanceof ServerError ? WAL_REMOVED : began);",
    ]],
  },
  {
    title: "a gap's end is not searched for",
    file: "lib/receiver/first_available.ts",
    changes: [["  while (gone + 1n < there) {", "  while (gone + 1n < there && there < 0n) {"]],
  },
  {
    title: "the gate is open while commits may wait",
    file: "lib/receiver/receive.ts",
    changes: [[
      'standbyNames === "" ? undefined : new FlushGate()',
      "standbyNames !== undefined ? undefined : new FlushGate()",
    ]],
  },
  {
    title: "a gap is none for the gate while something not received yet stands behind it",
    file: "lib/receiver/start.ts",
    changes: [
      [
        "  return missingBelow(view, segmentNumberAt(startLsn, view.segmentSize), kind);",
        "  return holesOnLineage(view, kind).filter(({ endNumber }) => segmentStart(endNumber, view.segmentSize) <= startLsn);",
      ],
      ["  missingBelow,\n", "  holesOnLineage,\n"],
    ],
  },
  {
    title: "the gate opens at the first look",
    file: "lib/receiver/gap_watch.ts",
    changes: [["    if (open.length === 0) gate?.open();", "    gate?.open();"]],
  },
  {
    title: "an acceptance counts that is not durable",
    file: "lib/receiver/gap_watch.ts",
    changes: [["await archive.confirmGap(gap);", "void gap;"]],
  },
  {
    title: "a compressed segment gets its name before it is synced",
    file: COMPRESS,
    changes: [["        await file.sync();\n        bytes =", "        bytes ="]],
  },
  {
    title: "the plain segment goes before the compressed one's name is synced",
    file: COMPRESS,
    changes: [
      ['    await onlyOnce(() => disk.syncDirectory("."));\n    await removeName', "    await removeName"],
      ['    await onlyOnce(() => disk.syncDirectory("."));\n    // Somebody', "    // Somebody"],
    ],
  },
  {
    title: "the compressed segment is not read back",
    file: COMPRESS,
    changes: [[
      "bytes = await this.#readBack(plain, file, lengths);",
      "bytes = lengths.length + await file.bytes();",
    ]],
  },
  {
    title: "nobody has to vouch for what another host brings",
    file: "lib/archive/refuse_segment.ts",
    changes: [
      ["  if (tiedTo === undefined) return;", '  if (tiedTo !== "before") return;'],
      [
        "  if (await around.isContinued !== false) return;",
        "  if (await around.isContinued !== null) return;",
      ],
    ],
  },
  {
    title: "what is missing is asked for only until it is written down",
    file: "lib/receiver/gap_watch.ts",
    changes: [[
      "    if (missing.length > 0) this.options.heal(joinedRuns(missing));\n",
      "    joinedRuns(missing);\n",
    ]],
  },
  {
    title: "a gap that is healed is never written down to be so",
    file: "lib/archive/gap_receiving_archive.ts",
    changes: [[
      "    await this.#archive.appendToLedger(encodeGapHealing(healing));",
      "    encodeGapHealing(healing);",
    ]],
  },
  {
    title: "what another host brings is claimed to it",
    file: "lib/receiver/segment_request.ts",
    changes: [["{ writeLsn: ZERO_LSN, flushLsn: ZERO_LSN,", "{ writeLsn: nextLsn, flushLsn: ZERO_LSN,"]],
  },
  {
    title: "a pushed segment gets its name before it is synced",
    file: WRITE,
    changes: [["Promise.all([written, file.sync()]).then(() => {})", "written"]],
    by: "push",
  },
  {
    title: "a pushed segment's name is not synced",
    file: ACCEPT,
    changes: [[
      '  await disk.syncDirectory(".");\n  await refuseOtherForms',
      "  await refuseOtherForms",
    ]],
    by: "push",
  },
  {
    title: "the second push relies on the first one's sync of the directory",
    file: ACCEPT,
    changes: [[
      "  await disk.syncDirectory(path.startsWith",
      '  if (path === "") await disk.syncDirectory(path.startsWith',
    ]],
    by: "push",
  },
  {
    title: "the name of a pushed segment that is kept is not synced",
    file: ACCEPT,
    changes: [["    await disk.syncDirectory(IN_PROGRESS_DIRECTORY);\n    return", "    return"]],
    by: "push",
  },
  {
    title: "a partial segment is published",
    file: ACCEPT,
    changes: [["!found.partial && isCompleteSegment(scan, scan.segmentSize)", "scan.segmentSize > 0"]],
    by: "push",
  },
  {
    title: "a pushed segment gets its name before it is synced, compressed",
    file: WRITE,
    changes: [["  await file.sync();\n  const label", "  const label"]],
    by: "push",
  },
  {
    title: "what a killed push left stays",
    file: "lib/archive/acceptance.ts",
    changes: [["if (isPushedName(name, brought.name)) await", 'if (name === "") await']],
    by: "push",
  },
  {
    title: "a pushed history gets its name before it is synced",
    file: "lib/archive/accept_text.ts",
    changes: [["    await file.sync();\n    if (await", "    if (await"]],
    by: "push",
  },
  {
    title: "damaged bytes lose their name before the new one is synced",
    file: "lib/archive/conflict.ts",
    changes: [["  await disk.syncDirectory(CONFLICTS_DIRECTORY);\n  await removeName", "  await removeName"]],
    by: "push",
  },
  {
    title: "damaged bytes are thrown away",
    file: "lib/archive/conflict.ts",
    changes: [[
      "    if (await addName(disk, { from, to: kept }, naming)) return kept;\n",
      "    return kept;\n",
    ]],
    by: "push",
  },
  {
    title: "a damaged form stays, and the push fails for ever",
    file: ACCEPT,
    changes: [["damaged[0] !== undefined && !await isProven(written)", "damaged[0] !== undefined"]],
    by: "push",
  },
];
