-- Search one page of the output stream for a text, from the newest record back.
-- KEYS     1 stream
-- ARGV     1 the position before which to begin, or "+"  2 maximum records to search  3 the text, its ASCII
--          letters in lower case  4 maximum size of a field that is searched and returned (bytes)
-- Returns  {number searched, the last position or "" at the end, then twos: position, fields}
-- Atomic   it only reads; a page is short, so that it blocks Redis briefly. It ends after the first few
--          MiB, or after the first MiB in lower case (5 ms), and reads large records one by one.
-- Flags    no-writes
-- The case of ASCII letters does not matter. A field that is not returned cannot be shown as a match.
local STEP, LARGE_STEP_BYTES, MAX_BYTES, MAX_LOWER_BYTES = 10, 262144, 4194304, 1048576
local last, found = ARGV[1] == '+' and '+' or '(' .. ARGV[1], { 0, '' }
local searched, bytes_read, lower_bytes, step = 0, 0, 0, 1
while searched < tonumber(ARGV[2]) and bytes_read < MAX_BYTES and lower_bytes < MAX_LOWER_BYTES do
  local page, size = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', step), 0
  for _, entry in ipairs(page) do
    local fields, is_match = entry[2], false
    for i = 1, #fields, 2 do
      local value = fields[i + 1]
      size = size + #value
      if #value > tonumber(ARGV[4]) then
        fields[i + 1] = ''
      elseif not is_match then
        lower_bytes = lower_bytes + #value
        is_match = string.find(string.lower(value), ARGV[3], 1, true)
      end
    end
    if is_match then
      found[#found + 1], found[#found + 2] = entry[1], fields
    end
  end
  searched = searched + #page
  if #page < step then
    found[1] = searched
    return found
  end
  last = '(' .. page[#page][1]
  bytes_read, step = bytes_read + size, size > LARGE_STEP_BYTES and 1 or STEP
end
found[1], found[2] = searched, string.sub(last, 2)
return found
