// Random numbers for the blind test, from the browser's cryptographic generator: no seed, no state that could be read.

// A whole number from 0 up to `count`, each equally probable: numbers of the last, incomplete round are drawn again.
function randomBelow(count) {
  const drawn = new Uint32Array(1);
  const limit = 2 ** 32 - (2 ** 32 % count);
  do crypto.getRandomValues(drawn);
  while (drawn[0] >= limit);
  return drawn[0] % count;
}

// A copy in random order, each order equally probable (Fisher and Yates).
function shuffled(list) {
  const all = [...list];
  for (let i = all.length - 1; i > 0; i--) {
    const j = randomBelow(i + 1);
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all;
}

// `count` values that hold each of `list` equally often, or once more or less, in random order.
function balanced(list, count) {
  const rounds = Array.from({ length: Math.floor(count / list.length) }, () => list).flat();
  return shuffled([...rounds, ...shuffled(list).slice(0, count % list.length)]);
}

// `count` random bytes as hex digits.
function randomHex(count) {
  return Array.from(crypto.getRandomValues(new Uint8Array(count)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
