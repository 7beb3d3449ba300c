"""The 133 categories of COCO panoptic as COCO publishes them (CC BY 4.0): id, kind, colour, supercategory, name."""

COCO_PANOPTIC = """
  1 thing dc143c person / person
  2 thing 770b20 vehicle / bicycle
  3 thing 00008e vehicle / car
  4 thing 0000e6 vehicle / motorcycle
  5 thing 6a00e4 vehicle / airplane
  6 thing 003c64 vehicle / bus
  7 thing 005064 vehicle / train
  8 thing 000046 vehicle / truck
  9 thing 0000c0 vehicle / boat
 10 thing faaa1e outdoor / traffic light
 11 thing 64aa1e outdoor / fire hydrant
 13 thing dcdc00 outdoor / stop sign
 14 thing af74af outdoor / parking meter
 15 thing fa001e outdoor / bench
 16 thing a52a2a animal / bird
 17 thing ff4dff animal / cat
 18 thing 00e2fc animal / dog
 19 thing b6b6ff animal / horse
 20 thing 005200 animal / sheep
 21 thing 78a69d animal / cow
 22 thing 6e4c00 animal / elephant
 23 thing ae39ff animal / bear
 24 thing c76400 animal / zebra
 25 thing 480076 animal / giraffe
 27 thing ffb3f0 accessory / backpack
 28 thing 007d5c accessory / umbrella
 31 thing d10097 accessory / handbag
 32 thing bcd0b6 accessory / tie
 33 thing 00dcb0 accessory / suitcase
 34 thing ff63a4 sports / frisbee
 35 thing 5c0049 sports / skis
 36 thing 8581ff sports / snowboard
 37 thing 4eb4ff sports / sports ball
 38 thing 00e400 sports / kite
 39 thing aefff3 sports / baseball bat
 40 thing 2d59ff sports / baseball glove
 41 thing 868667 sports / skateboard
 42 thing 9194ae sports / surfboard
 43 thing ffd0ba sports / tennis racket
 44 thing c5e2ff kitchen / bottle
 46 thing ab8601 kitchen / wine glass
 47 thing 6d3f36 kitchen / cup
 48 thing cf8aff kitchen / fork
 49 thing 97005f kitchen / knife
 50 thing 09503d kitchen / spoon
 51 thing 546933 kitchen / bowl
 52 thing 4a4169 food / banana
 53 thing a6c466 food / apple
 54 thing d0c3d2 food / sandwich
 55 thing ff6d41 food / orange
 56 thing 008f95 food / broccoli
 57 thing b300c2 food / carrot
 58 thing d1636a food / hot dog
 59 thing 057900 food / pizza
 60 thing e3ffcd food / donut
 61 thing 93bad0 food / cake
 62 thing 994501 furniture / chair
 63 thing 035fa1 furniture / couch
 64 thing a3ff00 furniture / potted plant
 65 thing 7700aa furniture / bed
 67 thing 00b6c7 furniture / dining table
 70 thing 00a578 furniture / toilet
 72 thing b78258 electronic / tv
 73 thing 5f2000 electronic / laptop
 74 thing 827287 electronic / mouse
 75 thing 6e8185 electronic / remote
 76 thing a64a76 electronic / keyboard
 77 thing db8eb9 electronic / cell phone
 78 thing 4fd272 appliance / microwave
 79 thing b25a3e appliance / oven
 80 thing 41460f appliance / toaster
 81 thing 7fa773 appliance / sink
 82 thing 3b696a appliance / refrigerator
 84 thing 8e6c2d indoor / book
 85 thing c4ac00 indoor / clock
 86 thing 5f3650 indoor / vase
 87 thing 804cff indoor / scissors
 88 thing c93901 indoor / teddy bear
 89 thing f6007a indoor / hair drier
 90 thing bfa2d0 indoor / toothbrush
 92 stuff ffff80 textile / banner
 93 stuff 93d3cb textile / blanket
 95 stuff 966464 building / bridge
100 stuff a8abac raw-material / cardboard
107 stuff 9270c6 furniture-stuff / counter
109 stuff d2aa64 textile / curtain
112 stuff 5c8859 furniture-stuff / door-stuff
118 stuff da58b8 floor / floor-wood
119 stuff f18100 plant / flower
122 stuff d911ff food-stuff / fruit
125 stuff 7c4ab5 ground / gravel
128 stuff 464646 building / house
130 stuff ffe4ff furniture-stuff / light
133 stuff 9ad000 furniture-stuff / mirror-stuff
138 stuff c1005c structural / net
141 stuff 4c5b71 textile / pillow
144 stuff ffb4c3 ground / platform
145 stuff 6a9ab0 ground / playingfield
147 stuff e6968c ground / railroad
148 stuff 3c8fff water / river
149 stuff 804080 ground / road
151 stuff 5c5237 building / roof
154 stuff fed47c ground / sand
155 stuff 494dae water / sea
156 stuff ffa062 furniture-stuff / shelf
159 stuff ffffff ground / snow
161 stuff 68546d furniture-stuff / stairs
166 stuff a9a483 building / tent
168 stuff e1c7ff textile / towel
171 stuff 89364a wall / wall-brick
175 stuff 879edf wall / wall-stone
176 stuff 07f6e7 wall / wall-tile
177 stuff 6bffc8 wall / wall-wood
178 stuff 3a2995 water / water-other
180 stuff b7798e window / window-blind
181 stuff ff4961 window / window-other
184 stuff 6b8e23 plant / tree-merged
185 stuff be9999 structural / fence-merged
186 stuff 928b8d ceiling / ceiling-merged
187 stuff 4682b4 sky / sky-other-merged
188 stuff 86c79c furniture-stuff / cabinet-merged
189 stuff d1e28c furniture-stuff / table-merged
190 stuff 60246c floor / floor-other-merged
191 stuff 606060 ground / pavement-merged
192 stuff 40aa40 solid / mountain-merged
193 stuff 98fb98 plant / grass-merged
194 stuff d0e5e4 ground / dirt-merged
195 stuff cebaab raw-material / paper-merged
196 stuff 98a140 food-stuff / food-other-merged
197 stuff 747000 building / building-other-merged
198 stuff 00728f solid / rock-merged
199 stuff 66669c wall / wall-other-merged
200 stuff fa8dff textile / rug-merged
"""
