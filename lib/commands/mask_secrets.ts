/**
 * A text for people, with every password of a connection string in it replaced by `***`.
 *
 * For texts that repeat what was typed: a connection string in the wrong place (a mistyped option, a swapped
 * argument) must not show its password.
 */
export function maskSecrets(text: string): string {
  return text
    .replace(/((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:[^\s'"&\\]|\\.)+)/gi, "$1***")
    .replace(/(:\/\/[^\s:@/"']*:)[^\s"']*@/g, "$1***@");
}
