// Scores from choices between two, equal to metrics/bradley_terry.py, where the formulas and their sources are.

const LIKELIHOOD_DROP = 3.841458820694124; // of twice the log-likelihood at an interval's ends: chi-squared's 95 %
const NEWTON_CLOSE = 1e-9; // a Newton step after which the error, about its square, is below what numbers hold
const NEWTON_STEPS = 1000; // only rounding can reach it: every step raises the likelihood

// counts[i][j]: how often i was preferred to j; counts[i][i] changes nothing. The scores are log-odds with mean 0 and
// 95 % intervals, or null where they would be infinite; then `separated` holds a group that never lost to the rest,
// and the rest. neverMet: nor did that group ever win.
function bradleyTerry(counts) {
  const items = [...counts.keys()];
  const { group, neverMet } = unbeaten(counts);
  if (group.length < items.length)
    return { scores: null, separated: [group, items.filter((i) => !group.includes(i))], neverMet };
  const best = mostLikely(counts, items.map(() => 0));
  return { scores: items.map((i) => profiled(counts, best, i)), separated: null, neverMet };
}

// The first group that never met the rest, else the first one that never lost to it: all, if chains of wins link
// every item to every other.
function unbeaten(counts) {
  const items = [...counts.keys()];
  const met = linkedAbove(counts.map((row, i) => row.map((won, j) => won + counts[j][i])));
  if (met[0].length < items.length) return { group: met[0], neverMet: true };
  const above = linkedAbove(counts);
  const first = items.find((i) => above[i].every((j) => above[j].includes(i)));
  return { group: above[first], neverMet: false };
}

// For each item, in order, itself and all from which a chain of wins leads to it.
function linkedAbove(counts) {
  return counts.map((_, item) => {
    const found = new Set([item]);
    for (const loser of found) counts.forEach((row, i) => row[loser] > 0 && found.add(i));
    return [...found].sort((a, b) => a - b);
  });
}

const expit = (difference) => 1 / (1 + Math.exp(-difference));

// The scores of the highest likelihood among those with the start's sum and, if given, its score `fixed`.
function mostLikely(counts, start, fixed = null) {
  let scores = start;
  for (let steps = 0; steps < NEWTON_STEPS; steps++) {
    const step = newtonStep(counts, scores, fixed);
    const size = Math.max(...step) - Math.min(...step);
    const part = size < NEWTON_CLOSE ? 1 : Math.log1p(size) / size;
    scores = scores.map((score, i) => score + part * step[i]);
    if (size < NEWTON_CLOSE) break;
  }
  return scores;
}

// With a Lagrange multiplier for the sum and one for the fixed score.
function newtonStep(counts, scores, fixed) {
  const held = [scores.map(() => 1)];
  if (fixed !== null) held.push(scores.map((_, i) => (i === fixed ? 1 : 0)));
  const rows = scores.map((score, i) => {
    const row = scores.map(() => 0);
    let slope = 0;
    scores.forEach((other, j) => {
      const met = counts[i][j] + counts[j][i];
      const weight = met * expit(score - other) * expit(other - score);
      row[i] += weight;
      row[j] -= weight;
      slope += counts[i][j] - met * expit(score - other);
    });
    return [...row, ...held.map((one) => one[i]), slope];
  });
  return solved([...rows, ...held.map((one) => [...one, ...held.map(() => 0), 0])]).slice(0, scores.length);
}

// Gauss's elimination; each row ends with its right-hand side. Changes the rows.
function solved(rows) {
  const size = rows.length;
  for (let k = 0; k < size; k++) {
    let pivot = k;
    for (let i = k + 1; i < size; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    for (let i = k + 1; i < size; i++) {
      const factor = rows[i][k] / rows[k][k];
      for (let j = k; j <= size; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  const found = new Array(size);
  for (let i = size - 1; i >= 0; i--) {
    let rest = rows[i][size];
    for (let j = i + 1; j < size; j++) rest -= rows[i][j] * found[j];
    found[i] = rest / rows[i][i];
  }
  return found;
}

function logLikelihood(counts, scores) {
  let sum = 0;
  counts.forEach((row, i) => row.forEach((won, j) => (sum += won && won * logExpit(scores[i] - scores[j]))));
  return sum;
}

// The logarithm of `expit` without overflow.
function logExpit(difference) {
  return Math.min(0, difference) - Math.log1p(Math.exp(-Math.abs(difference)));
}

// One score with its profile likelihood interval.
function profiled(counts, best, item) {
  const highest = logLikelihood(counts, best);
  const end = (side) => {
    const beyond = (distance) => {
      const moved = best.map((score, i) => score + side * distance * (i === item ? 1 : -1 / (best.length - 1)));
      return 2 * (highest - logLikelihood(counts, mostLikely(counts, moved, item))) - LIKELIHOOD_DROP;
    };
    let far = 1;
    while (beyond(far) <= 0) far *= 2;
    return best[item] + side * bisected(beyond, 0, far);
  };
  return { value: best[item], low: end(-1), high: end(1) };
}
