-- Look through one page of the output stream for what a person seeks, from the newest back.
-- KEYS     1 stream
-- ARGV     1 the position before which to begin, or "+"  2 how many to look at  3 the words as they
--          were typed  4 the same in small letters  5 the largest record (bytes) that is given whole
-- Returns  {how many were looked at, the last position or "" at the end, then twos: position, fields}
-- Atomic   it writes nothing; a page is short, so that nobody waits for it: it ends early behind the
--          first few MiB, and what is large is read one by one.
local FEW, MUCH, ENOUGH = 10, 262144, 4194304
local last, found = ARGV[1] == '+' and '+' or '(' .. ARGV[1], { 0, '' }
local looked, read, step = 0, 0, 1
while looked < tonumber(ARGV[2]) and read < ENOUGH do
  local page, size = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', step), 0
  for _, entry in ipairs(page) do
    local fields, fits = entry[2], false
    for i = 1, #fields, 2 do
      local value = fields[i + 1]
      size = size + #value
      if fields[i] == 'data' then
        fits = fits or string.find(value, ARGV[3], 1, true)
      else
        fits = fits or string.find(string.lower(value), ARGV[4], 1, true)
      end
      if #value > tonumber(ARGV[5]) then
        fields[i + 1] = ''
      end
    end
    if fits then
      found[#found + 1], found[#found + 2] = entry[1], fields
    end
  end
  looked = looked + #page
  if #page < step then
    found[1] = looked
    return found
  end
  last = '(' .. page[#page][1]
  read, step = read + size, size > MUCH and 1 or FEW
end
found[1], found[2] = looked, string.sub(last, 2)
return found
