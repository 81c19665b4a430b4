// The numbers of a blind test: what `vaelens blind` computes from the file, too.

// result: as in the file. Returns counts with their intervals and p-values (see `proportion`):
// { pairs: [{ pair, hits, trials, ... }], kinds: [{ pair, kind, ... }], together, scores, same, left, repeats }.
// The kinds of an ABX test are over all pairs, where `pair` is null.
// A hit of an ABX trial is a right answer; of a preference trial, that the pair's first decoder was preferred.
// together: all pairs of an ABX test, if there are several. scores: Bradley and Terry's for three or more decoders.
// same: of the trials that show one decoder twice, how often A was chosen; left: of all; repeats: of trials that show a
// pair and a place again, how often the same decoder was preferred as before. These four are null where they don't apply.
function summarise(result) {
  const abx = result.test === "abx";
  const real = result.trials.filter(({ a, b }) => a !== b);
  const count = (trials, hit = (trial) => isHit(trial, abx)) =>
    ({ hits: trials.filter(hit).length, trials: trials.length, ...proportion(trials.filter(hit).length, trials.length, !abx) });
  const pairs = grouped(real, (trial) => pairOf(trial).join(" "));
  const rows = [...pairs.values()].sort((one, other) => comparePairs(pairOf(one[0]), pairOf(other[0])));
  const choseA = (trial) => trial.answer === "a";
  const same = result.trials.filter(({ a, b }) => a === b);
  return {
    pairs: rows.map((trials) => ({ pair: pairOf(trials[0]), ...count(trials) })),
    kinds: (abx ? [real] : rows).flatMap((trials) =>
      kindsOf(result, trials).map(([kind, of]) => ({ pair: abx ? null : pairOf(of[0]), kind, ...count(of) }))),
    together: abx && rows.length > 1 ? count(real) : null,
    scores: abx ? null : scoresOf(real),
    same: abx ? null : { hits: same.filter(choseA).length, trials: same.length },
    left: abx ? null : count(result.trials, choseA),
    repeats: abx ? null : repeatsOf(real),
  };
}

// The trials of each kind of region, in the order of the settings.
function kindsOf(result, trials) {
  const kinds = grouped(trials, ({ kind }) => kind);
  return [...new Set([...result.kinds, "random"])].filter((kind) => kinds.has(kind)).map((kind) => [kind, kinds.get(kind)]);
}

const pairOf = ({ a, b }) => (a < b ? [a, b] : [b, a]);
const comparePairs = (one, other) => one[0] - other[0] || one[1] - other[1];
const chosenDecoder = (trial) => trial[trial.answer];
const isHit = (trial, abx) => (abx ? trial.answer === trial.x : chosenDecoder(trial) === pairOf(trial)[0]);

function grouped(list, keyOf) {
  const groups = new Map();
  for (const one of list) groups.set(keyOf(one), [...(groups.get(keyOf(one)) ?? []), one]);
  return groups;
}

// { decoders, scores, separated, neverMet } of the decoders that were shown, or null for fewer than three.
function scoresOf(trials) {
  const decoders = [...new Set(trials.flatMap(pairOf))].sort((a, b) => a - b);
  if (decoders.length < 3) return null;
  const wins = decoders.map((i) => decoders.map((j) =>
    trials.filter((trial) => chosenDecoder(trial) === i && trial.a + trial.b - i === j).length));
  return { decoders, ...bradleyTerry(wins) };
}

function repeatsOf(trials) {
  let [hits, repeats] = [0, 0];
  const key = ({ image, left, top, ...trial }) => [image, left, top, ...pairOf(trial)].join(" ");
  for (const same of grouped(trials, key).values())
    for (let i = 1; i < same.length; i++, repeats++) hits += chosenDecoder(same[i]) === chosenDecoder(same[i - 1]);
  return { hits, trials: repeats };
}
