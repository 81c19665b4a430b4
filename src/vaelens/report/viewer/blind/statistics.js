// Hits of trials: exact binomial tests against chance and exact intervals, equal to metrics/binomial.py.

const GUESS_RATE = 0.5; // a forced choice between two
const TAIL_SHARE = 0.025; // the probability outside a 95 % interval, at each end

// The share of hits, its 95 % interval (Clopper and Pearson 1934) and its p-value: of so many hits or more by chance,
// or, two-sided, of a count at least as lopsided. Without trials the rate is NaN, the interval 0 to 1 and p 1.
function proportion(hits, trials, twoSided = false) {
  const misses = trials - hits;
  const tail = (count) => atLeast(count, trials, GUESS_RATE);
  const p = twoSided ? Math.min(1, 2 * tail(Math.max(hits, misses))) : tail(hits);
  return { rate: hits / trials, low: lowestRate(hits, trials), high: 1 - lowestRate(misses, trials), p };
}

// The fewest hits whose one-sided p is at most `level`; null where even hits alone aren't enough.
function fewestHits(trials, level = 0.05) {
  let fewest = null;
  for (let hits = trials; hits >= 0 && atLeast(hits, trials, GUESS_RATE) <= level; hits--) fewest = hits;
  return fewest;
}

// The probability that so many trials at this true rate of hits end with a one-sided p of at most `level`.
function power(trials, rate, level = 0.05) {
  const fewest = fewestHits(trials, level);
  return fewest === null ? 0 : atLeast(fewest, trials, rate);
}

// The true rate at which so many hits or more are as improbable as an end of the interval allows.
function lowestRate(hits, trials) {
  return hits ? bisected((rate) => atLeast(hits, trials, rate) - TAIL_SHARE, 0, hits / trials) : 0;
}

// The probability of so many hits or more. The terms are summed from the largest one outwards, away from the mean, so
// that a small sum is as exact as a large one.
function atLeast(hits, trials, rate) {
  if (hits <= 0) return 1;
  if (hits <= trials * rate) return 1 - atLeast(trials - hits + 1, trials, 1 - rate);
  const odds = rate / (1 - rate);
  let term = exactly(hits, trials, rate);
  let sum = 0;
  for (let k = hits; k <= trials; k++) {
    sum += term;
    term *= ((trials - k) / (k + 1)) * odds;
  }
  return sum;
}

// The probability of just so many hits. Its factors above and below 1 take turns: factorials alone would be infinite.
function exactly(hits, trials, rate) {
  let misses = trials - hits;
  let product = 1;
  for (let k = 1; k <= hits; k++) {
    product *= ((trials - hits + k) / k) * rate;
    for (; product > 1 && misses; misses--) product *= 1 - rate;
  }
  return product * (1 - rate) ** misses;
}

// Where a rising function crosses 0 between two numbers, as exactly as numbers are.
function bisected(rising, low, high) {
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return middle;
    if (rising(middle) < 0) low = middle;
    else high = middle;
  }
}
