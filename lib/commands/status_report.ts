import type { Gap } from "../archive/gaps.ts";
import type { BackupJudgement } from "../observe/backup_judgement.ts";
import type { CommitLook } from "../observe/commit_window.ts";
import type { Lag } from "../observe/lag.ts";
import type { SenderView, SlotView } from "../protocol/replication_views.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { ArchiveSurvey, KnownBackup } from "./archive_survey.ts";
import type { LostTail } from "./lost_tails.ts";
import type { ServerLook } from "./server_look.ts";

/** WAL without a hole, and its commits. */
export interface CommitWindow {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** Of those whose record begins in it. */
  readonly firstCommit: CommitLook;
  readonly lastCommit: CommitLook;
}

/** A base backup, and what the archive is good for with it. */
export interface JudgedBackup extends KnownBackup {
  readonly judgement: BackupJudgement;
}

/** The commits to which recovery can go. */
export interface RecoverableWindow extends CommitWindow {
  /** The oldest base backup that leads to the end; `startLsn` is where it is consistent. */
  readonly backup: JudgedBackup;
}

/** A server beside its archive. */
export interface ServerStatus {
  readonly look: ServerLook;
  /** `undefined` where nothing can be compared: another cluster, or a timeline that the archive has left behind. */
  readonly lag: Lag | undefined;
  /** Of the receiver; "absent": the server has none of the name that was given. */
  readonly slot: SlotView | "absent" | undefined;
  readonly senders: readonly SenderView[];
  /** When the slot reaches its limit, if nothing comes and the server goes on as since WAL last came. */
  readonly limitMs: number | undefined;
}

/** All that status tells of an archive. */
export interface StatusReport {
  readonly path: string;
  readonly survey: ArchiveSurvey;
  /** With less than this free, receive stops reading. */
  readonly minFreeBytes: number;
  /** What is missing, on all timelines, with what the ledger tells of it. */
  readonly gaps: readonly Gap[];
  /** Since WAL last came, by this machine's clock; negative when the newest file's time lies in the future. */
  readonly sinceChangeMs: number | undefined;
  /** The newest WAL without a hole; `undefined` when there is none yet. */
  readonly window: CommitWindow | undefined;
  /** Of timelines that nobody went on from. */
  readonly lostTails: readonly LostTail[];
  readonly backups: readonly JudgedBackup[];
  readonly recoverable: RecoverableWindow | undefined;
  /** `undefined`: no server was asked for. */
  readonly server: ServerStatus | undefined;
  /** Why a server that was asked for could not be asked. */
  readonly serverError: unknown;
  /** What is not well, by the thresholds given. */
  readonly problems: readonly string[];
}
