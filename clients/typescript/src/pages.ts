import type { DescMethod, Message } from "@bufbuild/protobuf";

/** The response of a List or Search method. */
export type Page = Message & { nextPageToken: string };
/** What the pages of a response have: the elements of its only list. */
export type ItemOf<P> = Exclude<{ [K in keyof P]: P[K] extends readonly (infer T)[] ? T : never }[keyof P], undefined>;

/** Throws TypeError unless a method has pages. */
export function checkPaged(method: DescMethod | undefined): void {
  if (method?.input.field.pageToken) return;
  throw new TypeError(`${method?.name ?? "what is given"} is no method that has pages`);
}

/** Yields what the pages of a list have, in order. `page` asks for one. */
export async function* each<P extends Page>(page: (pageToken: string) => Promise<P>): AsyncGenerator<ItemOf<P>, void> {
  let pageToken = "";
  do {
    const answer = await page(pageToken);
    // The only list in it (AIP-158).
    yield* Object.values(answer).find(Array.isArray) as ItemOf<P>[];
    pageToken = answer.nextPageToken;
  } while (pageToken);
}
