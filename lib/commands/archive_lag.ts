import { setTimeout as sleep } from "node:timers/promises";
import { hasReached } from "../observe/lag.ts";
import { emptyHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import { type EndOfLineage, findEnd } from "./archive_end.ts";
import { type ArchiveSurvey, type LineageSurvey, surveyLineage } from "./archive_survey.ts";
import type { ServerLook } from "./server_look.ts";

/** A receiver that is well has what it lacks within milliseconds; one that comes back after a break, within seconds. */
const PATIENCE_MS = 2000;
const FIRST_PAUSE_MS = 25;

/** How an archive came up to what its server had when it was asked. */
export interface CatchUp {
  /** On the server's lineage, at the last look. */
  readonly end: EndOfLineage;
  readonly receivedAtFirstLsn: Lsn | undefined;
  /** From the server's answer to the last look; 0 when the first look found all. */
  readonly elapsedMs: number;
}

/** Watches an archive until it has what its server had, or for as long as patience lasts. */
export async function watchCatchUp(
  survey: ArchiveSurvey,
  server: ServerLook,
  signal: AbortSignal,
): Promise<CatchUp> {
  const { directory, segmentSize } = survey;
  const { lineage, stretches, end: firstEnd } = await onServerLineage(survey, server);
  const isThere = ({ receivedLsn }: EndOfLineage) =>
    receivedLsn !== undefined && hasReached(receivedLsn, server.flushLsn);
  if (isThere(firstEnd)) return { end: firstEnd, receivedAtFirstLsn: firstEnd.receivedLsn, elapsedMs: 0 };
  let end = firstEnd;
  const beganMs = performance.now();
  for (let pauseMs = FIRST_PAUSE_MS; !isThere(end); pauseMs *= 2) {
    const leftMs = beganMs + PATIENCE_MS - performance.now();
    if (leftMs <= 0) break;
    await sleep(Math.min(pauseMs, leftMs), undefined, { signal });
    end = await findEnd(directory, { lineage, segmentSize, completeEnd: stretches.at(-1)?.endNumber });
  }
  return {
    end,
    receivedAtFirstLsn: firstEnd.receivedLsn,
    elapsedMs: performance.now() - server.askedAtMs,
  };
}

async function onServerLineage(survey: ArchiveSurvey, server: ServerLook): Promise<LineageSurvey> {
  if (survey.newest?.lineage.timeline === server.timeline) return survey.newest;
  const lineage = server.lineage ??
    survey.histories.find(({ timeline }) => timeline === server.timeline) ?? emptyHistory(server.timeline);
  return await surveyLineage(survey.directory, { ...survey, lineage });
}
