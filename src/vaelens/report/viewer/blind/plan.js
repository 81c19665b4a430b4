// Which trials a blind test has, and in which order.
//
// Which decoder is called A is balanced over a pair's trials, and so are the kinds of places. X of an ABX trial is a coin
// of its own: were it balanced, too, someone who says "A" exactly as often as "B" would be right too often (12 of 16 or
// more in 6.6 % of all tests instead of 3.8 %), and the binomial test wouldn't hold. In a preference test the balance
// keeps a liking for one side out of the count, and p is exact for whoever doesn't balance the answers on purpose.

const SAME_EVERY = 8; // trials of a preference test for each that shows one decoder twice

const pairsOf = (list) => list.flatMap((one, i) => list.slice(i + 1).map((other) => [one, other]));
const sameCount = (test, count) => (test === "abx" ? 0 : Math.max(1, Math.round(count / SAME_EVERY)));

// count: trials with two decoders; those with one decoder twice come on top. pairs: [first, second] decoder numbers.
// places(kind, pair): what may be shown, [{ image, region, kind }, ...], at least one; its kind may be another where
// there is none of that kind. Returns
// [{ image, kind, region, a, b, x }, ...]: a and b are decoder numbers, x is "a" or "b", or null in a preference test.
function planTrials({ test, count, pairs, kinds, places }) {
  const next = placeDealer(places);
  const all = [];
  const counts = new Map(pairs.map((pair) => [pair, 0]));
  for (const pair of balanced(pairs, count)) counts.set(pair, counts.get(pair) + 1);
  for (const [pair, trials] of counts) {
    const kindOf = balanced(kinds, trials);
    const turned = balanced([false, true], trials);
    for (let i = 0; i < trials; i++) {
      const [a, b] = turned[i] ? [pair[1], pair[0]] : pair;
      all.push({ ...next(kindOf[i], pair), a, b, x: test === "abx" ? ["a", "b"][randomBelow(2)] : null });
    }
  }
  const same = sameCount(test, count);
  const kindOf = balanced(kinds, same);
  balanced(pairs.flatMap((pair) => pair.map((decoder) => ({ pair, decoder }))), same).forEach(({ pair, decoder }, i) => {
    all.push({ ...next(kindOf[i], pair), a: decoder, b: decoder, x: null });
  });
  return shuffled(all);
}

// Deals each kind's places of a pair in random order, all once before any comes again.
function placeDealer(places) {
  const left = new Map();
  return (kind, pair) => {
    const key = `${pair} ${kind}`;
    if (!left.get(key)?.length) left.set(key, shuffled(places(kind, pair)));
    return left.get(key).pop();
  };
}
